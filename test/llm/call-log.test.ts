import {
  appendFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync
} from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { llmUsage } from '../../schemas/llm-usage.js'
import { type CallLogOptions, openCallLog } from '../../src/llm/call-log.js'
import { exchange, llmApi } from '../support/llm-api.js'
import {
  answerOddly,
  answerWith,
  beginStream,
  refuseWith,
  startUpstream
} from '../support/llm-upstream.js'
import { type Teardown, temporaryFolder } from '../support/storages.js'

function logIn(t: Teardown, options: Partial<CallLogOptions> = {}) {
  const folder = temporaryFolder(t)
  const path = join(folder, 'logs', 'llm.log')
  const warnings: string[] = []
  const log = openCallLog({
    path,
    maxBytes: 1_000_000,
    maxAgeMs: 1_000_000,
    maxFiles: 3,
    warn: (_error, message) => warnings.push(message),
    ...options
  })
  const files = () => readdirSync(join(folder, 'logs')).sort()
  const read = (name = 'llm.log') => readFileSync(join(folder, 'logs', name), 'utf8')
  return { log, path, warnings, files, read }
}

t.test('each call is a line, with what it cost and how it ended', async (t) => {
  const upstream = await startUpstream(t, answerWith('Hel', 'lo!'))
  const path = join(temporaryFolder(t), 'llm.log')
  const api = await llmApi(t, upstream.url, {
    env: { LLM_LOG_PATH: path, LLM_CACHE_ENABLED: 'true', LLM_BANNED_TERMS: 'no' }
  })
  const { admin } = api
  const ask = { prompt: 'Hi', system: 'Be brief.', model: 'm' }
  const first = await admin.send('POST', '/llm/complete', ask)
  await admin.send('POST', '/llm/complete', ask)
  await admin.send('POST', '/llm/stream', ask)
  await admin.send('POST', '/llm/complete', { prompt: 'no' })
  upstream.answer = refuseWith(429)
  await admin.send('GET', '/llm/stream?prompt=Hi')
  upstream.answer = beginStream
  const left = exchange(api, '/llm/stream', { prompt: 'Hi' })
  await left.response
  const { aborted } = await upstream.received(3)
  left.request.destroy()
  await aborted
  await api.app.close()

  const lines = readFileSync(path, 'utf8').trimEnd().split('\n')
  const [complete, hit, stream, banned, limited, cancelled, ...none] = lines.map((line) =>
    JSON.parse(line)
  )
  t.strictSame(none, [])
  t.match(complete, {
    time: /^\d{4}-\d\d-\d\dT[\d:.]{12}Z$/,
    request_id: first.headers['x-request-id'],
    route: '/api/llm/complete',
    tenant: /^[0-9a-f-]{36}$/,
    user: admin.id,
    provider: 'openai',
    model: 'm',
    prompt_chars: 2,
    system_chars: 9,
    answer_chars: 6,
    prompt_tokens: 3,
    completion_tokens: 5,
    ms: Number,
    first_token_ms: null,
    finish_reason: 'stop',
    cache: 'miss',
    outcome: 'ok'
  })
  t.match(hit, { answer_chars: 6, completion_tokens: 0, cache: 'hit', outcome: 'ok' })
  for (const { finish_reason } of [hit, stream]) t.equal(finish_reason, 'stop')
  for (const { finish_reason } of [banned, limited, cancelled]) t.equal(finish_reason, null)
  t.match(stream, { route: '/api/llm/stream', completion_tokens: 5, cache: 'off', outcome: 'ok' })
  t.ok(stream.first_token_ms > 0 && stream.first_token_ms <= stream.ms)
  t.match(banned, { answer_chars: 0, prompt_tokens: 0, outcome: 'banned_term' })
  t.match(limited, { route: '/api/llm/stream', outcome: 'provider_rate_limited' })
  t.match(cancelled, { first_token_ms: null, outcome: 'cancelled' })
  const from = { resource: llmUsage, tenant: complete.tenant } as const
  const { rows } = await api.storage.list(from, { filter: { model: cancelled.model }, limit: 2 })
  t.match(rows, [{ calls: 3, errors: 2 }], 'who left is no error')
})

t.test('the log tells how answers ended, and quotes no word that it does not know', async (t) => {
  const upstream = await startUpstream(t)
  const path = join(temporaryFolder(t), 'llm.log')
  const api = await llmApi(t, upstream.url, { env: { LLM_LOG_PATH: path } })
  const ask = async (message: object, said: unknown) => {
    upstream.answer = answerOddly(message, {}, said)
    await api.admin.send('POST', '/llm/complete', { prompt: 'Hi' })
    await api.admin.send('POST', '/llm/stream', { prompt: 'Hi' })
  }
  for (const said of ['length', 'content_filter', 'eos', 5]) await ask({ content: 'Hel' }, said)
  await ask({ refusal: 'No.' }, 'stop')
  await api.app.close()
  const lines = readFileSync(path, 'utf8').trimEnd().split('\n')
  t.strictSame(
    lines.map((line) => JSON.parse(line).finish_reason),
    ['length', 'content_filter', 'other', null, 'refusal'].flatMap((each) => [each, each])
  )
})

t.test('the file begins anew when it is large, and the oldest go', async (t) => {
  let now = Date.UTC(2026, 0, 1)
  const { log, files, read } = logIn(t, { maxBytes: 20, now: () => now })
  for (const n of [1, 2, 3, 4, 5]) {
    log.write({ n, text: 'a line of some length' })
    await log.flush()
    now += 1000
  }
  t.strictSame(files(), [
    'llm.log',
    'llm.log.2026-01-01T00-00-03-000Z',
    'llm.log.2026-01-01T00-00-04-000Z'
  ])
  t.match(read(), '"n":5')
  t.match(read('llm.log.2026-01-01T00-00-04-000Z'), '"n":4')
})

t.test('the file begins anew when it is old, also when another process began it', async (t) => {
  let now = Date.now()
  const { log, path, files, read } = logIn(t, { maxAgeMs: 60_000, now: () => now })
  log.write({ n: 1 })
  await log.flush()
  now += 59_000
  log.write({ n: 2 })
  await log.flush()
  t.equal(files().length, 1)
  now += 2000
  log.write({ n: 3 })
  await log.flush()
  t.equal(files().length, 2)
  t.equal(read(), '{"n":3}\n')

  const again = openCallLog({
    path,
    maxBytes: 1_000_000,
    maxAgeMs: 60_000,
    maxFiles: 3,
    warn: () => {},
    now: () => now + 120_000
  })
  again.write({ n: 4 })
  await again.flush()
  t.equal(read(), '{"n":4}\n')
})

t.test('files of the same moment do not overwrite each other, and strangers stay', async (t) => {
  const { log, path, files } = logIn(t, { maxBytes: 1, now: () => 0, maxFiles: 3 })
  mkdirSync(join(path, '..'), { recursive: true })
  const others = 'another.log.1970-01-01T00-00-00-000Z'
  for (const name of [`${path}.notes`, join(path, '..', others)]) writeFileSync(name, 'mine')
  for (const n of [1, 2, 3]) {
    log.write({ n })
    await log.flush()
  }
  t.strictSame(files(), [
    others,
    'llm.log',
    'llm.log.1970-01-01T00-00-00-000Z',
    'llm.log.1970-01-01T00-00-00-000Z-1',
    'llm.log.notes'
  ])
})

t.test('a file that somebody else has moved away costs no line', async (t) => {
  const { log, path, files, read } = logIn(t, { maxBytes: 1 })
  log.write({ n: 1 })
  await log.flush()
  rmSync(path)
  log.write({ n: 2 })
  await log.flush()
  t.strictSame(files(), ['llm.log'])
  t.equal(read(), '{"n":2}\n')
})

t.test('lines that were written before a restart stay', async (t) => {
  const { log, path, read } = logIn(t)
  mkdirSync(join(path, '..'), { recursive: true })
  appendFileSync(path, '{"n":0}\n')
  utimesSync(path, new Date(), new Date())
  log.write({ n: 1 })
  await log.close()
  t.equal(read(), '{"n":0}\n{"n":1}\n')
})

t.test('a full disk costs lines and one warning, and no request', async (t) => {
  const { log, path, warnings, read } = logIn(t)
  mkdirSync(join(path, '..'), { recursive: true })
  symlinkSync('/dev/full', path)
  for (const n of [1, 2]) {
    log.write({ n })
    await log.flush()
  }
  t.match(warnings, [/cannot be logged/])
  t.equal(warnings.length, 1)
  rmSync(path)
  log.write({ n: 3 })
  await log.flush()
  t.equal(read(), '{"n":3}\n', 'and goes on when there is room')

  rmSync(path)
  symlinkSync('/dev/full', path)
  log.write({ n: 4 })
  await log.flush()
  t.equal(warnings.length, 2)
  rmSync(path)
  // As a disk leaves it that was full in the middle of a line.
  writeFileSync(path, '{"n":')
  log.write({ n: 5 })
  await log.flush()
  t.equal(read(), '{"n":\n{"n":5}\n', 'half a line spoils no other')

  const upstream = await startUpstream(t)
  const { admin } = await llmApi(t, upstream.url, { env: { LLM_LOG_PATH: '/dev/full' } })
  for (const _ of [1, 2, 3]) {
    const answer = await admin.send('POST', '/llm/complete', { prompt: 'Hi' })
    t.equal(answer.statusCode, 200)
  }
})

t.test('a disk that hangs does not fill the memory', async (t) => {
  const { log, read, warnings } = logIn(t)
  const line = { text: 'x'.repeat(1_000_000) }
  log.write({ n: 1 })
  await log.flush()
  for (let n = 0; n < 20; n++) log.write(line)
  await log.close()
  t.ok(read().length < 7_000_000)
  t.equal(warnings.length, 1)
  for (const each of read().trimEnd().split('\n')) t.ok(JSON.parse(each), 'no line is empty')
})
