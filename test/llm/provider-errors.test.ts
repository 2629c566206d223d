import { LLMock } from '@copilotkit/aimock'
import t from 'tap'
import { freePort } from '../support/free-port.js'
import { exchange, llmApi, readAll, readEvents } from '../support/llm-api.js'
import { answerOddly, answerWith, refuseWith, startUpstream } from '../support/llm-upstream.js'

t.test('what the provider refuses becomes an honest problem', async (t) => {
  const upstream = await startUpstream(t)
  const { admin } = await llmApi(t, upstream.url)
  const secretive = { message: 'sk-leaked' }
  const rows: [answer: (typeof upstream)['answer'], status: number, code: string][] = [
    [refuseWith(401), 502, 'provider_credentials'],
    [refuseWith(403), 502, 'provider_credentials'],
    [refuseWith(429), 429, 'provider_rate_limited'],
    [refuseWith(400), 422, 'provider_refused'],
    [refuseWith(422), 422, 'provider_refused'],
    [refuseWith(404, { code: 'model_not_found' }), 422, 'provider_refused'],
    [({ response }) => response.writeHead(404).end('<html>'), 502, 'provider_failed'],
    [refuseWith(500), 502, 'provider_failed'],
    [refuseWith(503, secretive, { 'retry-after': '5' }), 502, 'provider_failed'],
    [refuseWith(408), 504, 'provider_timeout'],
    [refuseWith(504), 504, 'provider_timeout'],
    [
      ({ response }) => response.writeHead(307, { location: 'http://127.0.0.1:9/' }).end(),
      502,
      'provider_failed'
    ],
    [({ socket }) => socket.destroy(), 502, 'provider_unreachable'],
    [({ socket }) => socket.end('SSH-2.0-OpenSSH\r\n'), 502, 'provider_failed'],
    [({ socket }) => socket.end('HTTP/1.1 200 OK\r\nno header\r\n\r\n'), 502, 'provider_failed'],
    [({ response }) => response.end('not JSON'), 502, 'provider_failed'],
    [
      ({ response }) => response.setHeader('content-type', 'application/json').end('{"choices":'),
      502,
      'provider_failed'
    ],
    [
      ({ response }) => response.setHeader('content-type', 'application/json').end('{}'),
      502,
      'provider_failed'
    ]
  ]
  for (const [answer, status, code] of rows) {
    upstream.answer = answer
    const refused = await admin.send('POST', '/llm/complete', { prompt: 'Hi' })
    t.match(refused.json(), { status, code }, `${code} for ${upstream.requests.length}`)
    t.notMatch(refused.body, 'sk-leaked')
  }
  // One: that whose kept connection broke before any answer, which may be the connection's fault.
  t.equal(upstream.requests.length, rows.length + 1, 'only one was repeated')
})

t.test('an answer that is no text is a failure of the provider', async (t) => {
  const upstream = await startUpstream(t)
  const api = await llmApi(t, upstream.url)
  for (const content of [[{ type: 'text', text: 'hi' }], ['a'], {}, 5, true]) {
    for (const message of [{ content }, { content: null, refusal: content }]) {
      upstream.answer = answerOddly(message)
      const answer = await api.admin.send('POST', '/llm/complete', { prompt: 'Hi' })
      t.match(answer.json(), { status: 502, code: 'provider_failed' }, JSON.stringify(message))
      const streamed = await exchange(api, '/llm/stream', { prompt: 'Hi' }).response
      t.match(readEvents(await readAll(streamed)), [
        { event: 'error', data: { status: 502, code: 'provider_failed' } }
      ])
    }
  }
})

t.test('a model without a name is the one that was asked', async (t) => {
  const upstream = await startUpstream(t)
  const api = await llmApi(t, upstream.url, {
    env: {
      LLM_BANNED_TERMS: 'swordfish',
      LLM_BANNED_TERMS_OUTPUT: 'true',
      LLM_CACHE_ENABLED: 'true'
    }
  })
  for (const model of [5, ['m'], null, '']) {
    upstream.answer = answerOddly({ content: 'Hello!' }, { model })
    const ask = { prompt: `Hi ${model}`, model: 'asked' }
    const answer = await api.admin.send('POST', '/llm/complete', ask)
    t.match(answer.json(), { content: 'Hello!', model: 'asked' }, JSON.stringify(model))
    const streamed = await exchange(api, '/llm/stream', ask).response
    t.match(readEvents(await readAll(streamed)).at(-1)?.data, { done: true, model: 'asked' })
  }
})

t.test('only known reasons are passed on', async (t) => {
  const upstream = await startUpstream(t)
  const { admin } = await llmApi(t, upstream.url)
  const detailFor = async (error: object) => {
    upstream.answer = refuseWith(400, error)
    return (await admin.send('POST', '/llm/complete', { prompt: 'Hi' })).json().detail
  }
  t.match(await detailFor({ code: 'context_length_exceeded' }), '(context_length_exceeded)')
  t.notMatch(await detailFor({ code: 'sk_key_as_code', message: 'sk_key_as_code' }), 'sk_key')
})

t.test('Retry-After is kept, as seconds', async (t) => {
  const upstream = await startUpstream(t)
  const { admin } = await llmApi(t, upstream.url)
  const waitFor = async (retryAfter: string) => {
    upstream.answer = refuseWith(429, {}, { 'retry-after': retryAfter })
    return (await admin.send('POST', '/llm/complete', { prompt: 'Hi' })).headers['retry-after']
  }
  t.equal(await waitFor('17'), '17')
  t.equal(await waitFor('1.5'), '2', 'too early would be in vain')
  t.equal(await waitFor('0.2'), '1')
  const inAnHour = new Date(Date.now() + 3_600_000).toUTCString()
  const seconds = Number(await waitFor(inAnHour))
  t.ok(seconds > 3000 && seconds <= 3600, `${seconds}`)
  t.equal(await waitFor('Thu, 01 Jan 2026 00:00:00 GMT'), '0', 'a time that has passed')
  t.equal(await waitFor('soon'), undefined)
})

t.test('a provider that is slow or away', async (t) => {
  const upstream = await startUpstream(t, () => {})
  const { admin } = await llmApi(t, upstream.url, { env: { LLM_TIMEOUT_MS: '50' } })
  const slow = await admin.send('POST', '/llm/complete', { prompt: 'Hi' })
  t.match(slow.json(), { status: 504, code: 'provider_timeout' })
  await (await upstream.received(0)).aborted
  upstream.answer = ({ response }) => response.writeHead(200).write('{')
  const slower = await admin.send('POST', '/llm/complete', { prompt: 'Hi' })
  t.match(slower.json(), { status: 504 }, 'the time covers the body')
  await (await upstream.received(1)).aborted

  const away = await llmApi(t, `http://127.0.0.1:${await freePort()}/v1`)
  const refused = await away.admin.send('POST', '/llm/complete', { prompt: 'Hi' })
  t.match(refused.json(), { status: 502, code: 'provider_unreachable' })
})

t.test('providers are configuration', async (t) => {
  // What the package would send to every provider alike.
  process.env.OPENAI_ORG_ID = process.env.OPENAI_PROJECT_ID = 'that of another program'
  t.teardown(() => {
    delete process.env.OPENAI_ORG_ID
    delete process.env.OPENAI_PROJECT_ID
  })
  const [openai, local] = [await startUpstream(t), await startUpstream(t, answerWith('Local!'))]
  const extra = { name: 'local', url: local.url, key: 'local-key', model: 'llama' }
  const { admin } = await llmApi(t, openai.url, {
    env: { LLM_PROVIDERS: JSON.stringify([extra]) }
  })
  const ask = (body: object) => admin.send('POST', '/llm/complete', { prompt: 'Hi', ...body })
  t.match((await ask({})).json(), { content: 'Hello!' })
  t.match((await ask({ provider: 'local' })).json(), { content: 'Local!', model: 'llama-2026' })
  const { headers } = await local.received(0)
  t.equal(headers.authorization, 'Bearer local-key')
  t.equal(headers['openai-organization'], undefined)
  t.equal(headers['openai-project'], undefined)
  const unknown = await ask({ provider: 'acme' })
  t.match(unknown.json(), { status: 400, code: 'unknown_provider', detail: /openai, local/ })
})

t.test('without a key the routes say what to set', async (t) => {
  const none = await llmApi(t, 'http://127.0.0.1:9/v1', { env: { OPENAI_API_KEY: '' } })
  for (const provider of [undefined, 'acme']) {
    const answer = await none.admin.send('POST', '/llm/complete', { prompt: 'Hi', provider })
    t.match(answer.json(), { status: 503, code: 'llm_not_configured', detail: /OPENAI_API_KEY/ })
  }
  const streamed = await none.admin.send('GET', '/llm/stream?prompt=Hi')
  t.match(streamed.json(), { status: 503, code: 'llm_not_configured' })
  t.equal((await none.send('GET', '/llm/stream?prompt=Hi')).statusCode, 401)
})

t.test('the routes work with an OpenAI stand-in that is not ours', async (t) => {
  const mock = new LLMock({ port: 0, host: '127.0.0.1', chunkSize: 4 })
  mock.on({ userMessage: 'Hi' }, { content: 'Hello from afar' })
  await mock.start()
  t.teardown(() => mock.stop())
  const api = await llmApi(t, `${mock.url}/v1`)
  const answer = await api.admin.send('POST', '/llm/complete', { prompt: 'Hi' })
  t.equal(answer.json().content, 'Hello from afar')
  const response = await exchange(api, '/llm/stream', { prompt: 'Hi' }).response
  const events = readEvents(await readAll(response))
  t.match(events.at(-1)?.data, { done: true, content: 'Hello from afar' })
  t.ok(events.length > 2, 'in pieces')
})
