import { setTimeout as later } from 'node:timers/promises'
import t from 'tap'
import { createKeepAliveFetch } from '../../adapters/keep-alive-fetch.js'
import { exchange, llmApi, PROVIDER_KEY, readAll } from '../support/llm-api.js'
import {
  answerWith,
  created,
  sendCompletion,
  startUpstream,
  tokens
} from '../support/llm-upstream.js'

t.test('complete asks the provider and answers in the fixed shape', async (t) => {
  const upstream = await startUpstream(t)
  const { admin } = await llmApi(t, upstream.url, {
    env: { OPENAI_DEFAULT_MODEL: 'small', OPENAI_SYSTEM_PROMPT: 'Be brief.' }
  })
  const answer = await admin.send('POST', '/llm/complete', { prompt: 'Hi' })
  t.equal(answer.statusCode, 200)
  t.strictSame(answer.json(), {
    content: 'Hello!',
    model: 'small-2026',
    created,
    usage: tokens,
    finish_reason: 'stop'
  })
  t.equal(answer.headers['x-cache'], 'miss')
  const { body, headers } = await upstream.received(0)
  t.strictSame(body, {
    model: 'small',
    messages: [
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: 'Hi' }
    ],
    stream: false
  })
  t.equal(headers.authorization, `Bearer ${PROVIDER_KEY}`)

  const full = { prompt: 'Hi', model: 'large', temperature: 0, maxTokens: 7, system: 'Be long.' }
  await admin.send('POST', '/llm/complete', { ...full, provider: 'openai', useCache: true })
  const { body: second } = await upstream.received(1)
  t.match(second, { model: 'large', temperature: 0, max_tokens: 7 })
  t.match(second.messages[0], { role: 'system', content: 'Be long.' })
})

t.test('what is not as documented is refused before anything is sent', async (t) => {
  const upstream = await startUpstream(t)
  const { admin, send } = await llmApi(t, upstream.url)
  for (const body of [
    {},
    { prompt: '' },
    { prompt: ' \n' },
    { prompt: 1 },
    { prompt: 'Hi', temperature: 3 },
    { prompt: 'Hi', temperature: '1' },
    { prompt: 'Hi', maxTokens: 0 },
    { prompt: 'Hi', maxTokens: 1.5 },
    { prompt: 'Hi', model: 'no spaces please' },
    { prompt: 'Hi', max_tokens: 5 }
  ]) {
    const refused = await admin.send('POST', '/llm/complete', body)
    t.match(refused.json(), { status: 400, code: 'validation_failed' }, JSON.stringify(body))
  }
  t.equal((await send('POST', '/llm/complete', { prompt: 'Hi' })).statusCode, 401)
  t.equal(upstream.requests.length, 0)
})

t.test('200 calls in flight do not queue behind a few connections, which are kept', async (t) => {
  const upstream = await startUpstream(t, () => {})
  const api = await llmApi(t, upstream.url)
  const ask = () =>
    exchange(api, '/llm/complete', { prompt: 'Hi' }).response.then((each) => readAll(each))
  for (const round of [1, 2]) {
    const answers = Array.from({ length: 200 }, ask)
    // Nothing is answered before all 200 are there: were they to queue, this would never come.
    await upstream.received(200 * round - 1)
    for (const request of upstream.requests.slice(200 * (round - 1))) sendCompletion(request, 'x')
    for (const text of await Promise.all(answers)) t.match(text, /"content":"x"/)
  }
  t.equal(upstream.connections, 200, 'the second round uses the connections of the first')
})

t.test('a connection that the provider has closed meanwhile fails no call', async (t) => {
  const upstream = await startUpstream(t)
  const { admin } = await llmApi(t, upstream.url)
  const complete = () => admin.send('POST', '/llm/complete', { prompt: 'Hi' })
  t.equal((await complete()).statusCode, 200)
  // The next request on the kept connection finds it reset, as when the provider times it out.
  const { socket } = await upstream.received(0)
  socket.once('data', () => socket.resetAndDestroy())
  t.equal((await complete()).statusCode, 200)
  t.equal(upstream.connections, 2)
})

t.test(
  'a call that its provider breaks off is sent twice at most, whatever connections wait',
  async (t) => {
    const upstream = await startUpstream(t, () => {})
    const api = await llmApi(t, upstream.url)
    const ask = (prompt: string) =>
      exchange(api, '/llm/complete', { prompt }).response.then((each) => readAll(each))
    const answers = Array.from({ length: 20 }, () => ask('Hi'))
    await upstream.received(19)
    for (const request of upstream.requests) sendCompletion(request, 'x')
    await Promise.all(answers)
    upstream.answer = ({ socket }) => socket.destroy()
    t.match(JSON.parse(await ask('Hi')), { code: 'provider_unreachable' })
    t.equal(upstream.requests.length, 22)
  }
)

t.test('a call that its provider breaks off late is not sent again', async (t) => {
  const upstream = await startUpstream(t, answerWith('x'))
  const connections = createKeepAliveFetch(upstream.url, { resendMs: 20 })
  t.teardown(() => connections.close())
  const ask = async () => {
    const { signal } = new AbortController()
    const init = { method: 'POST', headers: new Headers(), body: '{}', signal }
    return (await connections.fetch(upstream.url, init)).text()
  }
  await ask()
  upstream.answer = async ({ socket }) => {
    await later(50)
    socket.destroy()
  }
  await t.rejects(ask(), { code: 'ECONNRESET' })
  t.equal(upstream.requests.length, 2)
})

t.test('the client going away ends the request at the provider', async (t) => {
  const upstream = await startUpstream(t, ({ response }) => {
    if (upstream.requests.length === 2) response.writeHead(200).write('{"choices":')
  })
  const api = await llmApi(t, upstream.url)
  const first = exchange(api, '/llm/complete', { prompt: 'Hi' })
  const beforeHeaders = await upstream.received(0)
  first.request.destroy()
  await beforeHeaders.aborted
  t.pass('before the provider answered')

  const second = exchange(api, '/llm/complete', { prompt: 'Hi' })
  const amidBody = await upstream.received(1)
  second.request.destroy()
  await amidBody.aborted
  t.pass('in the middle of its answer')
})
