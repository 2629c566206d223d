import { type Child, startChild } from './child-process.js'
import { freePort } from './free-port.js'
import type { Teardown } from './storages.js'

export interface RedisServer {
  readonly url: string
  /** As a crash ends it; what it counted is lost. */
  kill(): Promise<void>
  /** Again on the same port, empty. */
  start(): Promise<void>
  /** Lets it hang, neither gone nor answering, until it is resumed. */
  pause(): void
  resume(): void
}

/** Debian's redis-server on a port of its own, without files. */
export async function startRedis(t: Teardown, password = ''): Promise<RedisServer> {
  const port = await freePort()
  let child: Child | undefined
  const redis: RedisServer = {
    url: `redis://${password && `:${password}@`}127.0.0.1:${port}`,
    async start() {
      child = startChild('redis-server', [
        ...['--port', `${port}`, '--bind', '127.0.0.1'],
        ...['--save', '', '--appendonly', 'no', '--requirepass', password]
      ])
      await child.wrote('Ready to accept connections')
    },
    async kill() {
      child?.signal('SIGKILL')
      await child?.ended()
    },
    pause: () => child?.signal('SIGSTOP'),
    resume: () => child?.signal('SIGCONT')
  }
  await redis.start()
  t.teardown(() => redis.kill())
  return redis
}
