import t from 'tap'
import { createAjv } from '../../../src/validator.js'
import { type Send, testApi } from '../../support/api.js'
import { documentOf } from '../../support/openapi.js'

/**
 * No input may cost more than its length. What a check takes for a text is compared with what it
 * takes for one four times as long: 4 times where it grows with the length, 16 times where it grows
 * with the square, and no end where it doubles with each character. It is the processor's time, and
 * the least of several runs, so that the machine may be slow or busy.
 */
const SHORT = 5000
const FACTOR = 4
const MOST_GROWTH = 9
/** Below this nobody would notice, and a measurement tells little. */
const NOISE_MS = 40
const RUNS = 5

/** What makes patterns try in vain: the same characters over and over, and an end that does not fit. */
const pumps = [
  'a',
  'a-',
  'a.',
  '.',
  '-',
  '0',
  '9',
  ' ',
  '\t',
  '"',
  '"1',
  ';',
  '/',
  '_',
  ':',
  'é',
  'Aa0._-'
]
const starts = [
  '',
  'a',
  'a@',
  '"',
  'Bearer ',
  'application/json;',
  '2026-01-31T',
  '2026-01-31T00:00:00.'
]
const ends = ['', '!', '@', '\n', '"', ' x']

function evilTexts(length: number): string[] {
  return starts.flatMap((start) =>
    pumps.flatMap((pump) =>
      ends.map((end) => start + pump.repeat(Math.ceil(length / pump.length)) + end)
    )
  )
}

async function least(run: () => unknown): Promise<number> {
  let best = Number.POSITIVE_INFINITY
  for (let i = 0; i < RUNS; i++) {
    const begun = process.cpuUsage()
    await run()
    const { user, system } = process.cpuUsage(begun)
    best = Math.min(best, (user + system) / 1000)
  }
  return best
}

async function grows(run: (length: number) => unknown): Promise<string | false> {
  const short = await least(() => run(SHORT))
  const long = await least(() => run(SHORT * FACTOR))
  const tooMuch = long > short * MOST_GROWTH + NOISE_MS
  return tooMuch && `${short.toFixed(1)} ms, and ${long.toFixed(1)} ms for ${FACTOR} times as much`
}

/** Every pattern in a document, wherever it stands. */
function patternsIn(value: unknown): string[] {
  if (typeof value !== 'object' || value === null) return []
  return Object.entries(value).flatMap(([key, inner]) =>
    key === 'pattern' && typeof inner === 'string' ? [inner] : patternsIn(inner)
  )
}

t.test('the measure finds a pattern that is slow', async (t) => {
  // As long as makes it slow on any machine: what is quick hides in the noise.
  const times = 3
  t.match(await grows((length) => /a*$/u.test(`${'a'.repeat(length * times)}!`)), /times as much/)
})

t.test('patterns and formats of the document take as long as the text is', async (t) => {
  const document = await documentOf((await testApi(t)).app)
  const patterns = [...new Set(patternsIn(document.document))]
  const checks = new Map(patterns.map((each) => [each, new RegExp(each, 'u')] as const))
  const { formats } = createAjv()
  const tests = [...checks].map(([name, expression]) => ({
    name,
    test: (text: string) => expression.test(text)
  }))
  for (const name of ['email', 'uuid', 'date-time']) {
    const format = formats[name]
    const validate = format instanceof RegExp ? (text: string) => format.test(text) : format
    tests.push({ name, test: validate as (text: string) => boolean })
  }
  t.ok(patterns.length > 3)
  const texts = [SHORT, SHORT * FACTOR].map((length) => [length, evilTexts(length)] as const)
  const byLength = new Map(texts)
  for (const { name, test } of tests) {
    const slow: string[] = []
    for (const [i, text] of (byLength.get(SHORT) ?? []).entries()) {
      const found = await grows((length) => test(byLength.get(length)?.[i] ?? ''))
      if (found) slow.push(`${text.slice(0, 20)}: ${found}`)
    }
    t.strictSame(slow, [], name)
  }
  t.comment(`${tests.length} patterns and formats, ${byLength.get(SHORT)?.length} texts each`)
})

t.test('headers and bodies take as long as they are', async (t) => {
  const api = await testApi(t)
  const admin = await api.register()
  await admin.send('PUT', '/flows/f', { name: 'F' })
  const login = (email: string) => api.send('POST', '/auth/login', { email, password: 'x' })
  const ways: Record<string, (text: string) => ReturnType<Send>> = {
    authorization: (text) => api.send('GET', '/flows', undefined, { authorization: text }),
    'if-match': (text) => admin.send('PATCH', '/flows/f', { name: 'F' }, { 'if-match': text }),
    'content-type': (text) =>
      admin.send('PATCH', '/flows/f', '{"name":"F"}', { 'content-type': text }),
    'idempotency-key': (text) =>
      admin.send('POST', '/flows', { name: 'F' }, { 'idempotency-key': text }),
    'x-forwarded-for': (text) => api.send('GET', '/health', undefined, { 'x-forwarded-for': text }),
    cursor: (text) => admin.send('GET', `/flows?cursor=${encodeURIComponent(text)}`),
    email: login,
    'a name': (name) => admin.send('PATCH', '/flows/f', { name }),
    'a secret': (name) => admin.send('POST', '/secrets', { name, value: 'v' }),
    'a time': (expires_at) => admin.send('PUT', '/secrets/S', { value: 'v', expires_at })
  }
  for (const [name, way] of Object.entries(ways))
    for (const pump of ['a', ' ', '"', '"1', 'a.', ';charset=', ',"'])
      t.equal(
        await grows((length) => way(`a${pump.repeat(length / pump.length)}!`)),
        false,
        `${name}: ${JSON.stringify(pump)}`
      )
  t.comment(`${Object.keys(ways).length} places, 7 texts each`)
})
