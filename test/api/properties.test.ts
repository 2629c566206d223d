import { randomInt } from 'node:crypto'
import fc from 'fast-check'
import t from 'tap'
import { compareBytes } from '../../adapters/storage/bytes.js'
import { decodeCursor, encodeCursor } from '../../adapters/storage/cursor.js'
import { StorageError } from '../../adapters/storage/errors.js'
import { assertClean, MOST_NESTING } from '../../src/clean-values.js'
import { ApiError } from '../../src/problems.js'
import { testApi } from '../support/api.js'
import { hostileText, hostileValue } from '../support/arbitraries.js'
import { testStorages } from '../support/storages.js'

const seed = Number(process.env.FUZZ_SEED ?? randomInt(2 ** 31))
t.comment(`FUZZ_SEED=${seed}`)
const many = { seed, numRuns: 2000 }

/** Any string, with more of the characters around the surrogates than chance would give. */
const text = fc.string({
  unit: fc.oneof(
    fc.string({ unit: 'binary', minLength: 1, maxLength: 1 }),
    fc.constantFrom('\ud7ff', '\ue000', '\uffff', '\u{10000}', '\u{10ffff}', 'a', '\0')
  ),
  maxLength: 6
})

t.test('compareBytes orders as the bytes of UTF-8 do', async () => {
  const property = fc.property(text, text, text, (start, a, b) => {
    const [left, right] = [start + a, start + b]
    const bytes = Buffer.compare(Buffer.from(left), Buffer.from(right))
    return Math.sign(compareBytes(left, right)) === bytes
  })
  fc.assert(property, many)
})

t.test('a cursor leads back to any place, and to no other list', async () => {
  const key = text.filter((each) => each !== '' && !each.includes('\0'))
  const at = fc.date({
    min: new Date('0001-01-01T00:00:00Z'),
    max: new Date('9999-12-31T23:59:59Z'),
    noInvalidDate: true
  })
  const property = fc.property(key, at, fc.string(), fc.string(), (key, at, list, other) => {
    const position = { at: at.toISOString(), key }
    const decoded = decodeCursor(list, encodeCursor(list, position))
    fc.pre(list !== other)
    return (
      decoded.at === position.at &&
      decoded.key === key &&
      isRefused(() => decodeCursor(other, encodeCursor(list, position)))
    )
  })
  fc.assert(property, many)
})

t.test('a cursor that was not made by a list is refused', async () => {
  const texts = fc.oneof(
    hostileText,
    fc.base64String(),
    hostileValue.map(encoded),
    // All but right: each of the three parts is something else.
    fc.tuple(fc.constant('list'), hostileValue, hostileValue).map(encoded),
    fc.tuple(hostileValue, fc.constant('2026-01-31T09:30:00.000Z'), fc.constant('k')).map(encoded)
  )
  fc.assert(
    fc.property(texts, (cursor) => isRefused(() => decodeCursor('list', cursor))),
    many
  )
})

for (const on of testStorages)
  t.test(`lists on ${on.kind} refuse random cursors`, { skip: on.skip }, async (t) => {
    const { send } = await (await testApi(t, { on })).register()
    const texts = fc.oneof(hostileText, fc.base64String(), hostileValue.map(encoded))
    const property = fc.asyncProperty(texts, async (given) => {
      const cursor = given.replaceAll('\0', '').toWellFormed().slice(0, 1000).toWellFormed()
      const answer = await send('GET', `/flows?cursor=${encodeURIComponent(cursor)}`)
      return answer.statusCode === 400 && answer.json().code === 'bad_cursor'
    })
    await fc.assert(property, { seed, numRuns: 200 })
  })

t.test('assertClean refuses what a storage would not give back, and nothing else', async () => {
  const value = fc.oneof(hostileValue, fc.jsonValue({ stringUnit: 'binary', maxDepth: 6 }))
  const property = fc.property(value, (each) => {
    // As it arrives: what JSON cannot carry, such as NaN, is no matter of a body.
    const sent: unknown = JSON.parse(JSON.stringify(each) ?? 'null')
    return isRefused(() => assertClean(sent, 'body')) === !isStorable(sent, 0)
  })
  fc.assert(property, many)
})

t.test('assertClean says where the value is', async (t) => {
  const message = 'body: contains the character NUL.'
  t.throws(() => assertClean('\0', 'body'), { message }, 'no space where there is no pointer')
  const key = fc.string({ unit: fc.constantFrom('a', '/', '~', '0', '1', 'é', ''), maxLength: 5 })
  const property = fc.property(fc.array(key, { maxLength: 10 }), (keys) => {
    const body = keys.reduceRight<unknown>((inner, each) => ({ [each]: inner }), '\0')
    const found = keys.map((each) => `/${each.replaceAll('~', '~0').replaceAll('/', '~1')}`)
    try {
      assertClean(body, 'body')
    } catch (error) {
      return (error as ApiError).extra.errors?.[0]?.pointer === found.join('')
    }
    return false
  })
  fc.assert(property, many)
})

function encoded(value: unknown): string {
  return Buffer.from(JSON.stringify(value) ?? '').toString('base64url')
}

/** Whether it fails as bad input does; any other error is thrown on. */
function isRefused(act: () => unknown): boolean {
  try {
    act()
    return false
  } catch (error) {
    if (error instanceof StorageError && error.code === 'bad_cursor') return true
    if (error instanceof ApiError && error.code === 'unsafe_value') return true
    throw error
  }
}

/** What the decision is about: a second opinion on the same values. */
function isStorable(value: unknown, depth: number): boolean {
  if (typeof value === 'string') return !value.includes('\0') && value === value.toWellFormed()
  if (typeof value === 'number')
    return Math.abs(value) < 2 ** 53
      ? value === 0 || Math.abs(value) >= 1e-40
      : !Number.isInteger(value)
  if (typeof value !== 'object' || value === null) return true
  return (
    depth < MOST_NESTING &&
    Object.entries(value).every(
      ([key, inner]) =>
        isStorable(key, depth + 1) && isStorable(inner, depth + 1) && !isPollution(key, inner)
    )
  )
}

function isPollution(key: string, inner: unknown): boolean {
  const holdsPrototype =
    typeof inner === 'object' && inner !== null && Object.keys(inner).includes('prototype')
  return key === '__proto__' || (key === 'constructor' && holdsPrototype)
}
