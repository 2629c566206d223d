import { setImmediate } from 'node:timers/promises'
import t from 'tap'
import { LlmError } from '../../adapters/llm/port.js'
import { cacheKey, createCompletionCache } from '../../src/llm/cache.js'
import { createSharing } from '../../src/llm/sharing.js'
import { exchange, type LlmApi, llmApi, readAll } from '../support/llm-api.js'
import {
  answerWith,
  refuseWith,
  sendCompletion,
  startUpstream,
  tokens,
  type Upstream
} from '../support/llm-upstream.js'

const cached = { LLM_CACHE_ENABLED: 'true' }

t.test('a repeated request is answered from the cache, any other is not', async (t) => {
  const upstream = await startUpstream(t)
  const { admin, register } = await llmApi(t, upstream.url, { env: cached })
  const ask = { prompt: 'Hi', system: 'Be brief.', temperature: 0, maxTokens: 5 }
  const send = async (body: object, expected: 'hit' | 'miss', who = admin) => {
    const answer = await who.send('POST', '/llm/complete', body)
    t.equal(answer.headers['x-cache'], expected, JSON.stringify(body))
    return answer.json()
  }
  const first = await send(ask, 'miss')
  t.strictSame(await send(ask, 'hit'), first)
  // The same said otherwise: in another order, and with the defaults spelt out.
  t.strictSame(
    await send({ model: 'gpt-4o-mini', provider: 'openai', useCache: true, ...ask }, 'hit'),
    first
  )
  for (const change of [
    { prompt: 'Hi!' },
    { system: 'Be long.' },
    { system: undefined },
    { temperature: 1 },
    { temperature: undefined },
    { maxTokens: 6 },
    { model: 'other' }
  ])
    await send({ ...ask, ...change }, 'miss')
  await send({ ...ask, useCache: false }, 'miss')
  await send(ask, 'miss', await register())
  t.equal(upstream.requests.length, 10)
})

t.test('without LLM_CACHE_ENABLED nothing is kept or shared', async (t) => {
  const upstream = await startUpstream(t, () => {})
  const api = await llmApi(t, upstream.url)
  const ask = () => exchange(api, '/llm/complete', { prompt: 'Hi', useCache: true }).response
  const answers = [ask(), ask()]
  await upstream.received(1)
  upstream.requests.forEach((request, number) => {
    sendCompletion(request, `Answer ${number}`)
  })
  for (const answer of await Promise.all(answers)) t.equal(answer.headers['x-cache'], 'miss')
})

t.test('errors are not kept', async (t) => {
  const upstream = await startUpstream(t, refuseWith(500))
  const { admin } = await llmApi(t, upstream.url, { env: cached })
  const ask = () => admin.send('POST', '/llm/complete', { prompt: 'Hi' })
  t.equal((await ask()).statusCode, 502)
  upstream.answer = answerWith('Hello!')
  const answer = await ask()
  t.equal(answer.json().content, 'Hello!')
  t.equal(answer.headers['x-cache'], 'miss')
})

t.test('identical requests in flight share one call, and leaving harms nobody', async (t) => {
  const upstream = await startUpstream(t, () => {})
  const api = await llmApi(t, upstream.url, { env: cached })
  const ask = () => exchange(api, '/llm/complete', { prompt: 'Hi' })
  const leader = ask()
  const request = await upstream.received(0)
  const [leaver, ...others] = [ask(), ask(), ask()]
  await passThrough(api, upstream)
  leader.request.destroy()
  leaver?.request.destroy()
  while (api.callsUnderWay() > 2) await setImmediate()
  sendCompletion(request, 'Hello!')
  for (const { response } of others) {
    t.match(await readAll(await response), /"content":"Hello!"/)
    t.equal((await response).headers['x-cache'], 'hit')
  }
  t.equal(upstream.requests.length, 2, 'with the one that passed through')
  const [usage] = (await api.admin.send('GET', '/llm/usage')).json()
  t.equal(usage.completion_tokens, tokens.completion_tokens, 'whose tokens count once')
})

t.test('when all have left, the call ends; who comes then starts anew', async (t) => {
  const upstream = await startUpstream(t, () => {})
  const api = await llmApi(t, upstream.url, { env: cached })
  const ask = () => exchange(api, '/llm/complete', { prompt: 'Hi' })
  const one = ask()
  const request = await upstream.received(0)
  const two = ask()
  await passThrough(api, upstream)
  one.request.destroy()
  two.request.destroy()
  await request.aborted
  upstream.answer = answerWith('Hello!')
  t.match(await readAll(await ask().response), /"content":"Hello!"/)
})

/** Sends a request all the way: what was sent before it has arrived when it has. */
async function passThrough(api: LlmApi, upstream: Upstream): Promise<void> {
  const { request } = exchange(api, '/llm/complete', { prompt: 'Through', useCache: false })
  const { aborted } = await upstream.received(upstream.requests.length)
  request.destroy()
  await aborted
}

const about = { model: 'm', created: 1, usage: null, finish_reason: 'stop' }
const completion = (content: string) => ({ content, ...about })
const limits = { entries: 3, bytes: 100_000, lifeMs: 1000 }

t.test('the cache is bounded by entries and by bytes', async (t) => {
  const few = createCompletionCache(limits)
  for (const key of 'abcd') few.set(key, completion(key))
  t.strictSame(
    [...'abcd'].map((key) => few.get(key)?.content),
    [undefined, 'b', 'c', 'd']
  )
  const small = createCompletionCache({ ...limits, bytes: 10_000 })
  small.set('a', completion('x'.repeat(3000)))
  small.set('b', completion('y'.repeat(3000)))
  t.equal(small.get('a'), undefined, 'two bytes a character')
  t.ok(small.get('b'))
  small.set('c', completion('z'.repeat(6000)))
  t.equal(small.get('c'), undefined, 'what is larger than the cache')
  t.ok(small.get('b'), 'does not empty it')
})

t.test('an answer is kept for its time', async (t) => {
  let now = 5000
  const cache = createCompletionCache(limits, { now: () => now })
  cache.set('a', completion('a'))
  now += 1000
  t.ok(cache.get('a'))
  now += 1
  t.equal(cache.get('a'), undefined)
})

t.test('no two requests have one key', async (t) => {
  const prompt = {
    model: 'm',
    prompt: 'p',
    system: undefined,
    temperature: undefined,
    maxTokens: undefined
  }
  const keys = [
    cacheKey('t', 'p', prompt),
    cacheKey('u', 'p', prompt),
    cacheKey('t', 'q', prompt),
    cacheKey('t', 'p', { ...prompt, system: 'p' }),
    cacheKey('t', 'p', { ...prompt, temperature: 1 }),
    cacheKey('t', 'p', { ...prompt, maxTokens: 1 }),
    cacheKey('t', 'p","m', { ...prompt, model: '' })
  ]
  t.equal(new Set(keys).size, keys.length)
})

t.test('shared work ends for each caller by itself', async (t) => {
  const sharing = createSharing<string>(() => new LlmError('cancelled'))
  let finish: (text: string) => void = () => {}
  let aborted = 0
  const start = (signal: AbortSignal) =>
    new Promise<string>((resolve) => {
      finish = resolve
      signal.addEventListener('abort', () => aborted++)
    })
  const [first, second] = [new AbortController(), new AbortController()]
  const one = sharing.join('k', first.signal, start)
  const two = sharing.join('k', second.signal, start)
  t.strictSame([one.joined, two.joined], [false, true])
  first.abort()
  await t.rejects(one.promise, { code: 'cancelled' })
  t.equal(aborted, 0)
  finish('done')
  t.equal(await two.promise, 'done')
  second.abort()
  t.equal(aborted, 0, 'what is over is not aborted')

  const third = new AbortController()
  const three = sharing.join('k', third.signal, start)
  t.notOk(three.joined, 'what is over is not joined')
  third.abort()
  await t.rejects(three.promise, { code: 'cancelled' })
  t.equal(aborted, 1)

  const four = sharing.join('k', AbortSignal.abort(), start)
  await t.rejects(four.promise, { code: 'cancelled' }, 'who has left before')
  t.equal(aborted, 2)
})
