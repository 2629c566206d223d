import type { FastifyBaseLogger } from 'fastify'
import type { Redis } from 'ioredis'
import { reasonOf } from '../adapters/reason.js'

/** What the limits of several instances have in common, as long as Redis is there. */
export interface SharedRedis {
  define: Redis['defineCommand']
  /** Undefined where Redis is known to be away; fails where it turns out to be. */
  ask<T>(command: (redis: Redis) => Promise<T>): Promise<T> | undefined
  /** For what nobody waits for: one that hangs is told, too, and hears it after what it was asked. */
  tell(command: (redis: Redis) => Promise<unknown>): void
}

/** How long Redis is left alone after a failure, so that one that hangs delays few. */
const REST_MS = 1000

/** Why a connection is away, as long as it is. */
const failures = new WeakMap<Redis, unknown>()

/**
 * A connection that fails at once while Redis is away, so that what it serves can do without, and
 * that comes back by itself. Resolves when it is known whether Redis is there.
 */
export async function connectRedis(url: string): Promise<Redis> {
  const { Redis } = await import('ioredis')
  const redis = new Redis(url, {
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    connectTimeout: 500,
    // One that is there but hangs counts as away, too.
    commandTimeout: 500
  })
  await new Promise<void>((resolve) => {
    redis.once('ready', resolve)
    // Every try to connect ends here; whoever uses the connection says that it is away, once.
    redis.on('error', (error) => {
      failures.set(redis, error)
      resolve()
    })
  })
  return redis
}

/** Says once when Redis goes and when it comes back. */
export function shareRedis(redis: Redis, log: FastifyBaseLogger): SharedRedis {
  let away = false
  /** By a clock that nobody puts back. */
  let restsUntil = 0

  function wentAway(error: unknown = failures.get(redis)): void {
    restsUntil = performance.now() + REST_MS
    if (away) return
    away = true
    // Not the error itself: it has the command that failed, and that of AUTH has the password of Redis.
    const reason = error === undefined ? 'The connection has ended' : reasonOf(error)
    log.warn(
      { reason },
      'Redis cannot be reached: limits count in this process alone until it is back'
    )
  }

  function cameBack(): void {
    failures.delete(redis)
    if (away) log.info('Redis is back: limits are shared again')
    away = false
  }

  redis.on('error', wentAway)
  redis.on('ready', () => {
    restsUntil = 0
    cameBack()
  })
  if (redis.status !== 'ready') wentAway()

  return {
    define: redis.defineCommand.bind(redis),
    ask(command) {
      if (redis.status !== 'ready') wentAway()
      if (performance.now() < restsUntil) return undefined
      return command(redis).then(
        (answer) => {
          cameBack()
          return answer
        },
        (error: unknown) => {
          wentAway(error)
          throw error
        }
      )
    },
    tell(command) {
      if (redis.status === 'ready') command(redis).catch(() => {})
    }
  }
}
