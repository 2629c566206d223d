import t from 'tap'
import { exchange, type LlmApi, llmApi, readAll, readEvents } from '../support/llm-api.js'
import {
  answerOddly,
  answerWith,
  beginStream,
  endStream,
  sendChunk,
  sendPiece,
  startUpstream
} from '../support/llm-upstream.js'
import { documentOf } from '../support/openapi.js'

async function streamed(api: LlmApi, body: object = { prompt: 'Hi' }) {
  const response = await exchange(api, '/llm/stream', body).response
  return readEvents(await readAll(response))
}

function endingOf({ content, finish_reason }: { content: string; finish_reason: string | null }) {
  return { content, finish_reason }
}

/** What the provider says, how it says that this ended, and what callers are told of it. */
const endings: readonly [message: object, said: unknown, content: string, told: string | null][] = [
  [{ content: 'Hello!' }, 'stop', 'Hello!', 'stop'],
  [{ content: '{"half":' }, 'length', '{"half":', 'length'],
  [{ content: 'Hel' }, 'content_filter', 'Hel', 'content_filter'],
  [{ content: null }, 'content_filter', '', 'content_filter'],
  [{ content: null }, 'stop', '', 'stop'],
  [{ content: null }, 'tool_calls', '', 'tool_calls'],
  [{ content: 'Hello!', refusal: null }, 'eos', 'Hello!', 'eos'],
  [{ content: 'Hello!', refusal: '' }, 'stop', 'Hello!', 'stop'],
  [{ content: null, refusal: 'No.' }, 'stop', 'No.', 'refusal'],
  [{ content: '', refusal: 'No.' }, 'stop', 'No.', 'refusal'],
  [{ content: null, refusal: 'N' }, 'length', 'N', 'length'],
  [{ content: null, refusal: 'No.' }, 'content_filter', 'No.', 'content_filter'],
  [{ content: 'Hello!' }, 'x'.repeat(64), 'Hello!', 'x'.repeat(64)],
  [{ content: 'Hello!' }, 'x'.repeat(65), 'Hello!', null],
  [{ content: 'Hello!' }, 5, 'Hello!', null],
  [{ content: 'Hello!' }, { reason: 'stop' }, 'Hello!', null],
  [{ content: null, refusal: 'No.' }, 5, 'No.', 'refusal']
]

t.test('both ways of asking tell how the answer ended', async (t) => {
  const upstream = await startUpstream(t)
  const api = await llmApi(t, upstream.url)
  const { violation } = await documentOf(api.app)
  for (const [message, said, content, finish_reason] of endings) {
    upstream.answer = answerOddly(message, {}, said)
    const name = JSON.stringify([message, said])
    const answer = await api.admin.send('POST', '/llm/complete', { prompt: 'Hi' })
    t.strictSame(endingOf(answer.json()), { content, finish_reason }, name)
    t.equal(violation('/components/schemas/LlmCompletion', answer.json()), null)
    const last = (await streamed(api)).at(-1)?.data
    t.strictSame(endingOf(last), { content, finish_reason }, `${name}, streamed`)
    t.equal(violation('/components/schemas/LlmDone', last), null)
  }
})

t.test(
  'where the provider does not say how, a whole answer is one and a stream is not',
  async (t) => {
    const upstream = await startUpstream(t)
    const api = await llmApi(t, upstream.url)
    const complete = async (message: object, said: unknown) => {
      upstream.answer = answerOddly(message, {}, said)
      return (await api.admin.send('POST', '/llm/complete', { prompt: 'Hi' })).json()
    }
    for (const said of [null, '']) {
      const whole = endingOf(await complete({ content: 'Hello!' }, said))
      t.strictSame(whole, { content: 'Hello!', finish_reason: null })
      const refused = endingOf(await complete({ refusal: 'No.' }, said))
      t.strictSame(refused, { content: 'No.', finish_reason: 'refusal' })
      t.match((await streamed(api)).at(-1), { event: 'error', data: { code: 'provider_failed' } })
    }
  }
)

t.test('a refusal in pieces is one, whatever chunk says how it ended', async (t) => {
  const upstream = await startUpstream(t)
  const api = await llmApi(t, upstream.url)
  const refuse = (ending: string) => {
    upstream.answer = (request) => {
      beginStream(request)
      // So OpenAI begins, before it is known what it will be.
      sendChunk(request, [{ delta: { role: 'assistant', content: '', refusal: null } }])
      for (const refusal of ['I ', 'will not.']) sendChunk(request, [{ delta: { refusal } }])
      endStream(request, ending)
    }
    return streamed(api)
  }
  t.match(
    (await refuse('stop')).map(({ data }) => data),
    [
      { delta: 'I ' },
      { delta: 'will not.' },
      { done: true, content: 'I will not.', finish_reason: 'refusal' }
    ]
  )
  t.match((await refuse('length')).at(-1)?.data, { finish_reason: 'length' })
})

t.test('a stream that is cut off says so after its pieces', async (t) => {
  const upstream = await startUpstream(t, (request) => {
    beginStream(request)
    sendPiece(request, '{"half"')
    sendPiece(request, ':')
    endStream(request, 'length')
  })
  const api = await llmApi(t, upstream.url)
  t.match((await streamed(api)).at(-1)?.data, {
    done: true,
    content: '{"half":',
    finish_reason: 'length'
  })
})

t.test('a kept answer ended as it did the first time', async (t) => {
  const upstream = await startUpstream(t)
  const { admin } = await llmApi(t, upstream.url, { env: { LLM_CACHE_ENABLED: 'true' } })
  for (const [number, [message, said, , finish_reason]] of endings.entries()) {
    const ask = { prompt: `Hi ${number}` }
    upstream.answer = answerOddly(message, {}, said)
    const first = await admin.send('POST', '/llm/complete', ask)
    upstream.answer = answerWith('Another answer.')
    const second = await admin.send('POST', '/llm/complete', ask)
    t.equal(second.headers['x-cache'], 'hit')
    t.equal(first.json().finish_reason, finish_reason)
    t.strictSame(second.json(), first.json())
    const anew = await admin.send('POST', '/llm/complete', { ...ask, useCache: false })
    t.match(anew.json(), { content: 'Another answer.', finish_reason: 'stop' })
  }
})
