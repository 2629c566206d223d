import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type { LlmProvider } from '../../adapters/llm/port.js'
import {
  deltasOf,
  exchange,
  llmApi,
  PROVIDER_KEY,
  readAll,
  readEvents,
  readUntil
} from '../support/llm-api.js'
import {
  answerWith,
  beginStream,
  created,
  endStream,
  type Received,
  refuseWith,
  sendChunk,
  sendPiece,
  startUpstream,
  tokens
} from '../support/llm-upstream.js'
import { documentOf } from '../support/openapi.js'
import { scriptedProvider } from '../support/scripted-provider.js'

t.test('both streams send the pieces and, in the end, the whole', async (t) => {
  const upstream = await startUpstream(t, answerWith('Hel', 'lo', ' 🙂'))
  const api = await llmApi(t, upstream.url)
  const query = new URLSearchParams({ prompt: 'Hi', model: 'm', temperature: '1', maxTokens: '9' })
  for (const { response } of [
    exchange(api, '/llm/stream', { prompt: 'Hi', model: 'm', temperature: 1, maxTokens: 9 }),
    exchange(api, `/llm/stream?${query}`)
  ]) {
    const { statusCode, headers } = await response
    t.equal(statusCode, 200)
    t.match(headers, {
      'content-type': 'text/event-stream',
      'cache-control': 'no-cache, no-transform',
      'x-accel-buffering': 'no'
    })
    t.ok(headers['x-request-id'], 'with the headers of every answer')
    t.ok(headers['ratelimit-remaining'])
    const events = readEvents(await readAll(await response))
    t.strictSame(
      events.map(({ data }) => data),
      [
        { delta: 'Hel' },
        { delta: 'lo' },
        { delta: ' 🙂' },
        {
          done: true,
          content: 'Hello 🙂',
          model: 'm-2026',
          created,
          usage: tokens,
          finish_reason: 'stop'
        }
      ]
    )
  }
  for (const { body } of upstream.requests)
    t.match(body, { model: 'm', temperature: 1, max_tokens: 9, stream: true })
})

t.test('a page of another origin can read both, and what their headers say', async (t) => {
  const upstream = await startUpstream(t)
  const origin = 'https://app.example.com'
  const { app, admin } = await llmApi(t, upstream.url, { env: { CORS_ORIGIN: origin } })
  for (const url of ['/api/llm/complete', '/api/llm/stream']) {
    const { headers } = await app.inject({
      method: 'POST',
      url,
      headers: { origin, authorization: `Bearer ${admin.token}` },
      payload: { prompt: 'Hi' }
    })
    t.equal(headers['access-control-allow-origin'], origin)
    for (const name of ['X-Cache', 'Retry-After', 'RateLimit-Remaining'])
      t.match(headers['access-control-expose-headers'], name)
  }
})

t.test('the headers come at once, and pings while there is nothing else', async (t) => {
  const upstream = await startUpstream(t, () => {})
  const api = await llmApi(t, upstream.url, { env: { LLM_PING_MS: '20' } })
  const { response } = exchange(api, '/llm/stream', { prompt: 'Hi' })
  const answer = (await response).setEncoding('utf8')
  const request = await upstream.received(0)
  t.notOk(request.response.headersSent, 'the provider has not said a word')
  let text = ''
  answer.on('data', (piece) => {
    text += piece
  })
  const wait = async (wanted: RegExp) => {
    while (!wanted.test(text)) await once(answer, 'data')
  }
  await wait(/^(: ping\n\n){3}/)
  beginStream(request)
  sendPiece(request, 'Hello')
  await wait(/data: {"delta":"Hello"}\n\n(: ping\n\n){2}/)
  endStream(request)
  await once(answer, 'end')
  t.match(readEvents(text).at(-1)?.data, { done: true, content: 'Hello' })
})

t.test('the client going away ends the request at the provider', async (t) => {
  const upstream = await startUpstream(t, () => {})
  const api = await llmApi(t, upstream.url)
  const first = exchange(api, '/llm/stream', { prompt: 'Hi' })
  await first.response
  const beforeAnything = await upstream.received(0)
  first.request.destroy()
  await beforeAnything.aborted
  t.pass('before the first token')

  const second = exchange(api, '/llm/stream?prompt=Hi')
  const answer = await second.response
  const amid = await upstream.received(1)
  beginStream(amid)
  sendPiece(amid, 'Hello')
  await readUntil(answer, 'Hello')
  second.request.destroy()
  await amid.aborted
  t.pass('after the first token')
})

t.test('what fails after the headers is an event with a problem', async (t) => {
  const upstream = await startUpstream(t)
  const api = await llmApi(t, upstream.url, { env: { LLM_SILENCE_MS: '50' } })
  const { violation } = await documentOf(api.app)
  const stream = async () => {
    const response = await exchange(api, '/llm/stream', { prompt: 'Hi' }).response
    t.equal(response.statusCode, 200)
    const events = readEvents(await readAll(response))
    for (const { event, data } of events) {
      const schema = event === 'error' ? 'LlmStreamProblem' : data.done ? 'LlmDone' : 'LlmDelta'
      t.equal(violation(`/components/schemas/${schema}`, data), null, schema)
    }
    return events
  }

  upstream.answer = refuseWith(401, { message: `Incorrect API key provided: ${PROVIDER_KEY}` })
  t.match(await stream(), [
    { event: 'error', data: { status: 502, code: 'provider_credentials', request_id: String } }
  ])

  upstream.answer = refuseWith(429, {}, { 'retry-after': '17' })
  t.match(await stream(), [
    { event: 'error', data: { status: 429, code: 'provider_rate_limited', retry_after: 17 } }
  ])

  upstream.answer = (request) => {
    beginStream(request)
    sendPiece(request, 'Hel')
    request.response.write('data: {"choi', () => request.socket.destroy())
  }
  t.match(await stream(), [
    { data: { delta: 'Hel' } },
    { event: 'error', data: { status: 502, code: 'provider_failed' } }
  ])

  upstream.answer = (request) => {
    beginStream(request)
    sendPiece(request, 'Hel')
    request.response.end()
  }
  const cut = await stream()
  t.match(cut.at(-1), { event: 'error', data: { code: 'provider_failed' } }, 'ended too early')

  upstream.answer = (request) => {
    beginStream(request)
    sendPiece(request, 'Hel')
  }
  t.match(await stream(), [
    { data: { delta: 'Hel' } },
    { event: 'error', data: { status: 504, code: 'provider_timeout' } }
  ])
  await (await upstream.received(4)).aborted

  upstream.answer = answerWith('Hello')
  t.match((await stream()).at(-1), { data: { done: true, content: 'Hello' } })
})

t.test(
  'a failure that comes just as the reader falls behind is told, and nothing else fails',
  async (t) => {
    // Not awaited by anybody, it would end the server.
    let unhandled = 0
    const count = () => unhandled++
    process.on('unhandledRejection', count)
    t.teardown(() => process.off('unhandledRejection', count))
    let delta = ''
    const provider: LlmProvider = {
      ...scriptedProvider,
      stream: () =>
        (async function* () {
          yield { delta }
          throw new Error('secret cause')
        })()
    }
    const api = await llmApi(t, '', { providers: [provider] })
    // Node.js counts a reader as behind from 16 or 64 KiB on, by its release.
    for (const most of [16, 64])
      for (let less = 0; less <= 600; less += 50) {
        delta = 'x'.repeat(most * 1024 - less)
        const { response } = exchange(api, '/llm/stream', { prompt: 'Hi', provider: 'scripted' })
        const events = readEvents(await readAll(await response))
        t.match(events, [{ data: { delta } }, { event: 'error', data: { code: 'internal_error' } }])
      }
    t.equal(unhandled, 0, 'no promise is left alone')
  }
)

t.test('a stream that says too much breaks off, as a whole answer does', async (t) => {
  const upstream = await startUpstream(t)
  const api = await llmApi(t, upstream.url)
  const piece = 'x'.repeat(512 * 1024)
  const stream = async (pieces: number) => {
    upstream.answer = answerWith(...Array(pieces).fill(piece))
    const response = await exchange(api, '/llm/stream', { prompt: 'Hi' }).response
    return readEvents(await readAll(response))
  }
  t.match((await stream(32)).at(-1)?.data, { done: true })
  const events = await stream(33)
  t.equal(deltasOf(events).length, 32)
  t.match(events.at(-1), { event: 'error', data: { status: 502, code: 'provider_failed' } })
})

t.test('so does one whose event does not end', async (t) => {
  const upstream = await startUpstream(t, async (request) => {
    beginStream(request)
    const { response } = request
    response.write('data: {"x":"')
    while (!response.destroyed)
      if (!response.write('x'.repeat(32 * 1024)))
        await Promise.race([once(response, 'drain'), once(response, 'close')])
  })
  const api = await llmApi(t, upstream.url)
  const response = await exchange(api, '/llm/stream', { prompt: 'Hi' }).response
  t.match(readEvents(await readAll(response)), [
    { event: 'error', data: { status: 502, code: 'provider_failed' } }
  ])
  await (await upstream.received(0)).aborted
})

t.test(
  'what has no text neither ends the wait for the first piece nor puts off its end',
  async (t) => {
    const upstream = await startUpstream(t)
    const events = async (env: Readonly<Record<string, string>>) => {
      const api = await llmApi(t, upstream.url, { env })
      const response = await exchange(api, '/llm/stream', { prompt: 'Hi' }).response
      return readEvents(await readAll(response))
    }
    const sayNothing = (request: Received) => sendChunk(request, [{ index: 0, delta: {} }])

    upstream.answer = async (request) => {
      beginStream(request)
      for (; !request.response.destroyed; await sleep(10)) sayNothing(request)
    }
    t.match(await events({ LLM_TIMEOUT_MS: '300' }), [
      { event: 'error', data: { status: 504, code: 'provider_timeout' } }
    ])

    upstream.answer = async (request) => {
      beginStream(request)
      sayNothing(request)
      // Longer than two pieces may be apart.
      await sleep(400)
      sendPiece(request, 'Hello')
      endStream(request)
    }
    const late = await events({ LLM_SILENCE_MS: '300' })
    t.match(late.at(-1)?.data, { done: true, content: 'Hello' })
  }
)

t.test('what can be refused at once is no stream', async (t) => {
  const upstream = await startUpstream(t)
  const { app, admin, send, person } = await llmApi(t, upstream.url)
  t.equal((await send('GET', '/llm/stream?prompt=Hi')).statusCode, 401)
  const viewer = await person(admin, 'viewer')
  t.equal((await viewer.send('GET', '/llm/stream?prompt=Hi')).statusCode, 403)
  t.equal((await admin.send('GET', '/llm/stream')).statusCode, 400)
  t.equal((await admin.send('GET', '/llm/stream?prompt=Hi&useCache=true')).statusCode, 400)
  t.equal((await admin.send('GET', '/llm/stream?prompt=Hi&temperature=hot')).statusCode, 400)
  const authorization = `Bearer ${admin.token}`
  const head = { method: 'HEAD', url: '/api/llm/stream?prompt=Hi' } as const
  t.equal((await app.inject({ ...head, headers: { authorization } })).statusCode, 404)
  t.equal(upstream.requests.length, 0)
})

t.test('a prompt that is too long for an address is told to go by POST', async (t) => {
  const upstream = await startUpstream(t)
  const api = await llmApi(t, upstream.url)
  const prompt = 'x'.repeat(20_000)
  const refused = await exchange(api, `/llm/stream?prompt=${prompt}`).response
  t.equal(refused.statusCode, 431)
  t.match(JSON.parse(await readAll(refused)), {
    status: 431,
    code: 'headers_too_large',
    detail: /16 KiB.+POST/
  })
  const answer = await exchange(api, '/llm/stream', { prompt }).response
  t.match(readEvents(await readAll(answer)).at(-1)?.data, { done: true })
  t.equal(upstream.requests.length, 1)
})

t.test('closing the server ends open streams with a problem when the time is up', async (t) => {
  const upstream = await startUpstream(t, beginStream)
  const api = await llmApi(t, upstream.url, { env: { SHUTDOWN_TIMEOUT_MS: '1' } })
  const response = await exchange(api, '/llm/stream', { prompt: 'Hi' }).response
  const request = await upstream.received(0)
  const text = readAll(response)
  await api.app.close()
  t.match(readEvents(await text), [
    { event: 'error', data: { status: 503, code: 'unavailable', retry_after: 1 } }
  ])
  await request.aborted
})
