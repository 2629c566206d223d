import fc from 'fast-check'
import t from 'tap'
import { createModeration, type Gate, type Moderation } from '../../src/llm/moderation.js'
import { deltasOf, exchange, llmApi, readAll, readEvents } from '../support/llm-api.js'
import { answerWith, beginStream, sendPiece, startUpstream } from '../support/llm-upstream.js'

const rules = { bannedTerms: [], answers: true, maxChars: 1000 }

function isBanned(bannedTerms: readonly string[], prompt: string): boolean {
  try {
    createModeration({ ...rules, bannedTerms }).assertAllowed({ prompt })
    return false
  } catch (error) {
    if ((error as { code?: string }).code !== 'banned_term') throw error
    return true
  }
}

t.test('terms match as whole words, whatever the case and the form', async (t) => {
  const banned: [term: string, text: string][] = [
    ['foo', 'foo'],
    ['foo', 'a FOO.'],
    ['Foo', '(fOo)'],
    ['foo', 'bar-foo-bar'],
    ['foo', 'such a _foo_'],
    ['foo', 'a_foo_b'],
    ['foo', 'f\u0001o\u009fo'],
    ['two words', 'two\u0085words'],
    ['foo', 'ｆｏｏ'],
    ['foo', 'f\u200boo'],
    ['foo', 'fo\u00ado'],
    ['café', 'CAFE\u0301'],
    ['cafe\u0301', 'Café'],
    ['straße', 'STRASSE'],
    ['straße', 'STRAẞE'],
    ['ạ\u0301', 'a\u0301\u200b\u0323'],
    ['ΟΔΟΣ', 'οδος'],
    ['ΟΔΟΣ', 'οδοσ'],
    ['ﬁsh', 'FISH'],
    ['café', `cafe${'\u200b'.repeat(50)}\u0301`],
    ['café', `cafe${'\u034f'.repeat(50)}\u0301`],
    ['foo', `a${'\u0316\u0301'.repeat(50)} foo`],
    [`foo${'\u0301'.repeat(50)}`, `foo${'\u0301'.repeat(50)}`],
    ['two words', 'Two\n \twords'],
    ['c++', 'I like C++17'],
    ['東京', '「東京」'],
    // Where no spaces are written, a word is not known by what stands beside it.
    ['東京', '私は東京都に住む'],
    ['ばか', 'あなたはばかです'],
    ['กรุงเทพ', 'ฉันอยู่กรุงเทพฯ'],
    ['ကား', 'ဒီကားကောင်း'],
    ['foo', 'これがfooです'],
    ['テスト', '東京テストする'],
    ['東京', 'foo東京bar'],
    ['foo-bar', 'A foo-bar!'],
    ['and/or', 'and/or'],
    ['각', '\u1100\u1161\u11a8'],
    ['a.b', 'a.b'],
    [' padded ', 'so padded it was']
  ]
  for (const [term, text] of banned) t.ok(isBanned([term], text), `${term} in ${text}`)
  const allowed: [term: string, text: string][] = [
    ['foo', 'food'],
    ['foo', 'foo1'],
    ['foo', 'foo\u0301'],
    ['foo', `foo${'\u0301'.repeat(50)}`],
    ['foo', 'f oo'],
    ['cafe', 'café'],
    ['가', '각'],
    ['か', 'が'],
    ['กา', 'ก่า'],
    ['テスト', 'テストケース'],
    ['서울', '서울에서'],
    ['two words', 'twowords'],
    ['two words', 'two_words'],
    ['a.b', 'axb'],
    ['', 'anything'],
    [' ', 'any thing']
  ]
  for (const [term, text] of allowed) t.notOk(isBanned([term], text), `${term} in ${text}`)
})

t.test('size counts characters, of prompt and system together', async (t) => {
  const { assertAllowed } = createModeration({ ...rules, maxChars: 10 })
  assertAllowed({ prompt: '🙂'.repeat(10) })
  assertAllowed({ prompt: '12345', system: '67890' })
  for (const request of [
    { prompt: '🙂'.repeat(11) },
    { prompt: '12345', system: '678901' },
    { prompt: 'x'.repeat(1000) }
  ])
    t.throws(() => assertAllowed(request), { code: 'prompt_too_large' })
})

t.test('nothing that breaks a rule is sent, and the answer does not repeat it', async (t) => {
  const upstream = await startUpstream(t)
  const { admin } = await llmApi(t, upstream.url, {
    env: { LLM_BANNED_TERMS: 'swordfish, open sesame', LLM_MAX_PROMPT_CHARS: '100' }
  })
  for (const ask of [
    { prompt: 'The password is SWORDFISH!' },
    { prompt: 'Hi', system: 'Say "open  sesame".' }
  ])
    for (const url of ['/llm/complete', '/llm/stream']) {
      const refused = await admin.send('POST', url, ask)
      t.match(refused.json(), { status: 422, code: 'banned_term', detail: /banned_terms/ })
      t.notMatch(refused.body, /swordfish|sesame/i)
    }
  const long = await admin.send('POST', '/llm/complete', { prompt: 'x'.repeat(101) })
  t.match(long.json(), { status: 413, code: 'prompt_too_large', detail: /max_prompt_chars/ })
  t.notMatch(long.body, 'xxx')
  t.equal(upstream.requests.length, 0)
  const allowed = await admin.send('POST', '/llm/complete', { prompt: 'A sesame, open.' })
  t.equal(allowed.statusCode, 200)
})

t.test('answers are checked only where that is asked for', async (t) => {
  const upstream = await startUpstream(t, answerWith('It is sword', 'fish.'))
  const ask = { prompt: 'Hi' }
  const open = await llmApi(t, upstream.url, { env: { LLM_BANNED_TERMS: 'swordfish' } })
  t.equal((await open.admin.send('POST', '/llm/complete', ask)).json().content, 'It is swordfish.')

  const { admin } = await llmApi(t, upstream.url, {
    env: {
      LLM_BANNED_TERMS: 'swordfish',
      LLM_BANNED_TERMS_OUTPUT: 'true',
      LLM_CACHE_ENABLED: 'true'
    }
  })
  for (const _ of [1, 2]) {
    const withheld = await admin.send('POST', '/llm/complete', ask)
    t.match(withheld.json(), { status: 422, code: 'answer_withheld' })
    t.notMatch(withheld.body, /fish/)
  }
  t.equal(upstream.requests.length, 3, 'what is withheld is not kept')
})

t.test('a streamed answer stops before a banned term, and passes otherwise', async (t) => {
  const upstream = await startUpstream(t)
  const api = await llmApi(t, upstream.url, {
    env: { LLM_BANNED_TERMS: 'swordfish', LLM_BANNED_TERMS_OUTPUT: 'true' }
  })
  const stream = async () => {
    const response = await exchange(api, '/llm/stream', { prompt: 'Hi' }).response
    return readEvents(await readAll(response))
  }
  upstream.answer = answerWith('It is s', 'w', 'ordf', 'ish', ', of course.')
  const withheld = await stream()
  t.equal(deltasOf(withheld).join(''), 'It is ')
  t.match(withheld.at(-1), { event: 'error', data: { status: 422, code: 'answer_withheld' } })
  t.notMatch(JSON.stringify(withheld), 'fish')

  upstream.answer = answerWith('It is s', 'w', 'ordf', 'ishing', '.')
  const passed = await stream()
  t.equal(deltasOf(passed).join(''), 'It is swordfishing.')
  t.match(passed.at(-1)?.data, { done: true, content: 'It is swordfishing.' })

  upstream.answer = (request) => {
    beginStream(request)
    sendPiece(request, 'Swordfish!')
  }
  await stream()
  await (await upstream.received(2)).aborted
  t.pass('and the request at the provider ends')
})

t.test('a kept answer is checked when it is sent again', async (t) => {
  // The rules of a process never change, so this is about the parts and not about a server.
  const { createCalls } = await import('../../src/llm/calls.js')
  const { cacheKey, createCompletionCache } = await import('../../src/llm/cache.js')
  const { scriptedProvider } = await import('../support/scripted-provider.js')
  const cache = createCompletionCache({ entries: 9, bytes: 10_000, lifeMs: 1000 })
  const calls = createCalls({
    providers: [scriptedProvider],
    systemPrompt: undefined,
    moderation: createModeration({ ...rules, bannedTerms: ['swordfish'] }),
    cache,
    log: { write() {}, flush: async () => {}, close: async () => {} },
    usage: { add() {}, flush: async () => {}, close: async () => {} }
  })
  const prompt = {
    model: scriptedProvider.defaultModel,
    prompt: 'Hi',
    system: undefined,
    temperature: undefined,
    maxTokens: undefined
  }
  const content = 'A swordfish.'
  const about = { model: 'm', created: 1, usage: null, finish_reason: 'stop' }
  cache.set(cacheKey('t', 'scripted', prompt), { content, ...about })
  const origin = { tenant: 't' as never, user: 'u', requestId: 'r', route: '/' }
  const ask = { prompt: 'Hi', provider: 'scripted' }
  await t.rejects(calls.complete(ask, origin, new AbortController()), {
    code: 'answer_withheld'
  })
})

/** What a gate lets through of the pieces, and whether it stopped. */
function pass(gate: Gate, pieces: readonly string[]): { sent: string; stopped: boolean } {
  let sent = ''
  try {
    for (const piece of pieces) sent += gate.push(piece)
    sent += gate.end()
    return { sent, stopped: false }
  } catch {
    return { sent, stopped: true }
  }
}

/** Where the term begins that ends first. Letters stand for what is before and after a part. */
function startOfFirstTerm(text: string, moderation: Moderation): number {
  const contains = (from: number, to: number) => {
    if ([from, to].some((at) => /[\udc00-\udfff]/.test(text.charAt(at)))) return false
    const before = /[a-zßé𝐚][\p{M}\uff9e\u200b\u009f]*$/iu.test(text.slice(0, from)) ? 'Q' : ' '
    const [mark, letter] =
      /^(?:\u200b|\u009f|\u0345)*(?:([\p{M}\uff9e])|([a-zßé𝐚]))?/iu
        .exec(text.slice(to))
        ?.slice(1) ?? []
    const after = mark ? mark.repeat(9) : letter ? 'Q' : ' '
    return !moderation.passes(before + text.slice(from, to) + after)
  }
  let to = 0
  while (!contains(0, to)) to++
  let from = to
  while (!contains(from, to)) from--
  return from
}

t.test('a gate stops where a whole text is banned, and before the term', async (t) => {
  const alphabet = fc.constantFrom(
    ...[
      'a',
      'b',
      'A',
      ' ',
      '  ',
      '\n',
      '.',
      '+',
      '_',
      'é',
      'e\u0301',
      '\u0301',
      '\u200b',
      '\u009f',
      '\u0085',
      'ß',
      '🙂',
      '東',
      'か',
      '\u3099',
      // A mark that goes before others, one that is a letter until it is folded, and two units for an a.
      '\u0323',
      '\u0345',
      '\uff9e',
      '𝐚'
    ]
  )
  const texts = fc.array(alphabet, { maxLength: 12 }).map((parts) => parts.join(''))
  const terms = fc.array(
    fc.array(alphabet, { minLength: 1, maxLength: 4 }).map((parts) => parts.join('')),
    { minLength: 1, maxLength: 3 }
  )
  const cuts = fc.array(fc.nat(12), { maxLength: 6 })
  fc.assert(
    fc.property(texts, terms, cuts, (text, bannedTerms, places) => {
      const moderation = createModeration({ ...rules, bannedTerms })
      const ends = [...new Set([...places, text.length])].sort((a, b) => a - b)
      const pieces = ends.map((end, index) => text.slice(ends[index - 1] ?? 0, end))
      const { sent, stopped } = pass(moderation.openGate(), pieces)
      if (!text.startsWith(sent)) return false
      if (moderation.passes(text)) return !stopped && sent === text
      return stopped && sent.length <= startOfFirstTerm(text, moderation)
    }),
    { numRuns: 2000 }
  )
  t.pass()
})

t.test('many terms and odd texts take no time to speak of', async (t) => {
  const bannedTerms = Array.from({ length: 1000 }, (_, number) => `open ${number} sesame`)
  const moderation = createModeration({ ...rules, bannedTerms, maxChars: 100_000 })
  for (const text of ['open ', 'o', '\u0301', 'a\u0301\u200b'])
    moderation.assertAllowed({ prompt: text.repeat(100_000 / text.length) })
  for (const piece of ['open ', '\u0301', '\u200b']) {
    const { sent } = pass(moderation.openGate(), Array(20_000).fill(piece))
    t.equal(sent.length, 20_000 * piece.length)
  }
  const whole = 'word and '.repeat(20_000)
  t.equal(pass(moderation.openGate(), [whole]).sent, whole)
})

t.test('marks without end and out of order cost no more than other odd texts', async (t) => {
  const moderation = createModeration({ ...rules, bannedTerms: ['foo'], maxChars: 200_000 })
  const costOf = (part: string) => {
    const text = 'é'.concat(part.repeat(199_000 / part.length))
    const before = process.cpuUsage()
    moderation.assertAllowed({ prompt: text })
    t.ok(moderation.passes(text))
    t.equal(pass(moderation.openGate(), [text]).sent, text)
    const { user, system } = process.cpuUsage(before)
    return user + system
  }
  costOf('é')
  const usual = costOf('é')
  for (const part of ['\u0316\u0301', '\u0316\u0301\u200b', '\uff9e\u0316', '\u0345\u0316\u0301']) {
    const times = costOf(part) / usual
    t.ok(times < 50, `${times} times the cost of letters`)
  }
})

t.test('no piece of a term is sent, however it is cut', async (t) => {
  for (const [text, bannedTerm, passes] of [
    ['So: open \u200b Sesame, now', 'open sesame', 'So: '],
    ['So: 🙂🙂b, now', '🙂b', 'So: 🙂'],
    ['が、東京へ', '東京', 'が、'],
    ['So: ke\u0301\u0323, now', 'kẹ\u0301', 'So: '],
    ['So: secre𝐭, now', 'secret', 'So: '],
    ['So: éﾞ, now', 'éﾞ', 'So: ']
  ] as const) {
    const moderation = createModeration({ ...rules, bannedTerms: [bannedTerm] })
    for (let one = 0; one <= text.length; one++)
      for (let two = one; two <= text.length; two++) {
        const pieces = [text.slice(0, one), text.slice(one, two), text.slice(two)]
        const { sent, stopped } = pass(moderation.openGate(), pieces)
        if (!stopped || !passes.startsWith(sent)) t.fail(JSON.stringify({ pieces, sent }))
      }
  }
  t.pass()
})

t.test('what is held back is no longer than the longest term', async (t) => {
  const gate = createModeration({ ...rules, bannedTerms: ['abc def'] }).openGate()
  const words = 'some words about nothing and abc deaf, repeated. '
  let length = 0
  let held = 0
  for (const letter of words.repeat(20)) {
    length += 1 - gate.push(letter).length
    held = Math.max(held, length)
  }
  t.ok(held <= 8, `${held} characters`)
})

t.test('half a character is none that ends a word', async (t) => {
  const gate = createModeration({ ...rules, bannedTerms: ['te'] }).openGate()
  t.strictSame(pass(gate, ['-te', '\ud835', '\udc00 z', '\ud835']), {
    sent: '-te\ud835\udc00 z\ud835',
    stopped: false
  })
})
