import { once } from 'node:events'
import { connect } from 'node:net'
import { setImmediate } from 'node:timers/promises'
import t from 'tap'
import { openLocalIdentity } from '../../adapters/identity/local.js'
import { connectRedis } from '../../src/redis.js'
import { cheapHasher, type TestApiOptions } from '../support/api.js'
import { exchange, type LlmApi, llmApi, readAll } from '../support/llm-api.js'
import { startUpstream, type Upstream } from '../support/llm-upstream.js'
import { startRedis } from '../support/redis.js'
import { memory, type Teardown } from '../support/storages.js'

const calls = [
  ['/llm/complete', { prompt: 'Hi' }],
  ['/llm/stream', { prompt: 'Hi' }],
  ['/llm/stream?prompt=Hi', undefined]
] as const

/** The API, and the errors that it logs. */
async function loggingApi(t: Teardown, upstream: Upstream, options: TestApiOptions) {
  const errors: string[] = []
  const stream = { write: (line: string) => void errors.push(line) }
  const api = await llmApi(t, upstream.url, { ...options, logger: { level: 'error', stream } })
  return { api, errors }
}

/** Sends calls one behind the other on one connection, without waiting for answers. */
function pipeline({ port, admin }: LlmApi, ...sent: readonly (typeof calls)[number][]) {
  const socket = connect(port, '127.0.0.1')
  const texts = sent.map(([path, body]) => {
    const payload = body ? JSON.stringify(body) : ''
    const head = `${body ? 'POST' : 'GET'} /api${path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${admin.token}\r\n`
    const about = body
      ? `Content-Type: application/json\r\nContent-Length: ${payload.length}\r\n`
      : ''
    return `${head}${about}\r\n${payload}`
  })
  socket.write(texts.join(''))
  return socket
}

/** Sends a call, and the same behind it, and is gone again before anything has come of it. */
async function comeAndGo(api: LlmApi, call: (typeof calls)[number]): Promise<void> {
  const before = api.callsUnderWay()
  const connected = once(api.app.server, 'connection')
  const socket = pipeline(api, call, call)
  const [connection] = await connected
  while (api.callsUnderWay() < before + 1) await setImmediate()
  const closed = once(connection, 'close')
  socket.destroy()
  await closed
}

/** Whoever comes behind is let in behind, too. */
async function passThrough(api: LlmApi, upstream: Upstream): Promise<string[]> {
  const { response } = exchange(api, '/llm/complete', { prompt: 'Through' })
  await readAll(await response)
  return upstream.requests.map(({ body }) => body.messages[0]?.content as string)
}

t.test('who goes while being signed in makes no call', async (t) => {
  const upstream = await startUpstream(t)
  const storage = await memory.open(t)
  const local = await openLocalIdentity({ storage, secret: 'x'.repeat(32), hasher: cheapHasher })
  let letIn = () => {}
  let door: Promise<void> | undefined
  const identity = {
    ...local,
    async verify(token: string) {
      await door
      return local.verify(token)
    }
  }
  const { api, errors } = await loggingApi(t, upstream, { storage, identity })
  for (const call of calls) {
    door = new Promise((resolve) => {
      letIn = resolve
    })
    await comeAndGo(api, call)
    letIn()
    await door
  }
  t.strictSame(await passThrough(api, upstream), ['Through'])
  t.strictSame(errors, [], 'nothing has failed')
})

t.test('who goes while being counted makes no call', async (t) => {
  for (const call of calls) {
    const upstream = await startUpstream(t)
    const redis = await startRedis(t)
    const connection = await connectRedis(redis.url)
    t.teardown(() => connection.disconnect())
    const { api, errors } = await loggingApi(t, upstream, { redis: connection })
    redis.pause()
    await comeAndGo(api, call)
    t.strictSame(await passThrough(api, upstream), ['Through'], call[0])
    t.strictSame(errors, [])
    redis.resume()
  }
})

t.test('who goes ends the call of the connection, and those behind it are not made', async (t) => {
  const warnings: Error[] = []
  const warn = (warning: Error) => warnings.push(warning)
  process.on('warning', warn)
  t.teardown(() => process.off('warning', warn))
  for (const call of calls) {
    const upstream = await startUpstream(t, () => {})
    const { api, errors } = await loggingApi(t, upstream, {})
    const socket = pipeline(api, ...Array(12).fill(call))
    const { aborted } = await upstream.received(0)
    socket.destroy()
    await aborted
    t.equal(upstream.requests.length, 1)
    t.strictSame(await passAfter(api, upstream), 'Through', call[0])
    t.strictSame(errors, [])
  }
  t.strictSame(warnings, [])
})

/** Whether a call still works, and what the provider was asked by it. */
async function passAfter(api: LlmApi, upstream: Upstream): Promise<string | undefined> {
  upstream.answer = ({ response }) => response.writeHead(400).end()
  return (await passThrough(api, upstream)).at(-1)
}
