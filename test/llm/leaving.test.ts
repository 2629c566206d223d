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

/** Sends a call, and is gone again before anything has come of it. */
async function comeAndGo(api: LlmApi, [path, body]: (typeof calls)[number]): Promise<void> {
  const { request } = exchange(api, path, body)
  while (api.callsUnderWay() === 0) await setImmediate()
  request.destroy()
  while (api.callsUnderWay() > 0) await setImmediate()
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
