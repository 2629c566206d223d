import fc, { type Arbitrary } from 'fast-check'

/** A JSON schema as the OpenAPI document holds it; what is read of it is looked at first. */
export type Schema = Readonly<Record<string, unknown>>

/** What a value of a property is taken from now and then, such as the ids of rows that exist. */
export type Suggest = (property: string) => Arbitrary<unknown> | undefined
/** Follows a reference. */
export type Resolve = (schema: Schema) => Schema

export interface Reading {
  readonly resolve: Resolve
  readonly suggest?: Suggest
}

/** Values that a schema allows, and that every storage can hold. */
export function valuesOf(given: Schema, reading: Reading): Arbitrary<unknown> {
  const schema = reading.resolve(given)
  const alternatives = (schema.anyOf ?? schema.oneOf) as Schema[] | undefined
  if (alternatives) return fc.oneof(...alternatives.map((each) => valuesOf(each, reading)))
  if (schema.const !== undefined) return fc.constant(schema.const)
  if (Array.isArray(schema.enum)) return fc.constantFrom(...(schema.enum as unknown[]))
  if (Array.isArray(schema.type))
    return fc.oneof(...schema.type.map((type) => valuesOf({ ...schema, type }, reading)))
  switch (schema.type) {
    case 'string':
      return textsOf(schema)
    case 'integer':
    case 'number':
      return numbersOf(schema)
    case 'boolean':
      return fc.boolean()
    case 'null':
      return fc.constant(null)
    case 'array':
      return fc.array(valuesOf((schema.items ?? {}) as Schema, reading), {
        minLength: (schema.minItems as number | undefined) ?? 0,
        maxLength: Math.min((schema.maxItems as number | undefined) ?? 5, 5)
      })
    case 'object':
      return objectsOf(schema, reading)
    case undefined:
      return anyJson
    default:
      throw new TypeError(`no values of the type ${schema.type}`)
  }
}

/** Objects with the required properties and any of the others. */
export function objectsOf(
  schema: Schema,
  reading: Reading
): Arbitrary<Readonly<Record<string, unknown>>> {
  const properties = Object.entries((schema.properties ?? {}) as Record<string, Schema>)
  const required = (schema.required ?? []) as string[]
  const least = (schema.minProperties as number | undefined) ?? 0
  const dependent = Object.entries((schema.dependentRequired ?? {}) as Record<string, string[]>)
  const fields = properties.map(([name, field]) => {
    const suggested = reading.suggest?.(name)
    const values = valuesOf(field, reading)
    return [name, suggested ? fc.oneof({ weight: 3, arbitrary: suggested }, values) : values]
  })
  return fc
    .record(Object.fromEntries(fields) as Record<string, Arbitrary<unknown>>, {
      requiredKeys: required,
      noNullPrototype: true
    })
    .filter(
      (value) =>
        Object.keys(value).length >= least &&
        dependent.every(
          ([name, needed]) => !(name in value) || needed.every((each) => each in value)
        )
    )
}

const idLike = fc
  .tuple(
    fc.constantFrom(...'aZ09'),
    fc.string({ unit: fc.constantFrom(...'abcXYZ019._-'), maxLength: 20 })
  )
  .map((parts) => parts.join(''))
const words = fc
  .array(fc.constantFrom('flow', 'Größe', '東京', '\u{1F600}', 'e\u0301', 'שלום', '-', '0'), {
    minLength: 1,
    maxLength: 6
  })
  .map((parts) => parts.join(' '))
const cleanText = fc
  .string({ unit: 'binary', maxLength: 40 })
  .map((text) => text.replaceAll('\0', ''))
const email = fc
  .tuple(
    fc.string({ unit: fc.constantFrom(...'abcABC09_+-'), minLength: 1, maxLength: 20 }),
    idLike
  )
  .map(([local, host]) => `${local}@${host.replace(/[^A-Za-z0-9]/g, 'x')}.example.com`)
const uuid = fc.uuid({ version: 7 })
const times = fc
  .tuple(
    fc.date({
      min: new Date('0001-01-03T00:00:00Z'),
      max: new Date('9999-12-29T00:00:00Z'),
      noInvalidDate: true
    }),
    fc.constantFrom('Z', 'z', '+00:00', '-08:30', '+14:00'),
    fc.constantFrom('', '.5', '.123', '.987654321')
  )
  .map(([date, zone, decimals]) => date.toISOString().replace(/\.\d{3}Z$/, decimals + zone))

const byFormat: Readonly<Record<string, Arbitrary<string>>> = { email, uuid, 'date-time': times }
/** Patterns are read without a generator for each: what of these a pattern allows is taken. */
const anyTexts = [idLike, words, cleanText]
const SAMPLES = 40

function textsOf(schema: Schema): Arbitrary<string> {
  const format = byFormat[schema.format as string]
  if (format) return format
  if (schema.format !== undefined) throw new TypeError(`no texts of the format ${schema.format}`)
  const fits = fitting(schema)
  const long = (schema.minLength as number | undefined) ?? 0
  const sources = anyTexts.map((texts) => texts.map((text) => text.padEnd(long, 'x')))
  const useful = sources.filter(
    (texts) => fc.sample(texts, SAMPLES).filter(fits).length * 4 > SAMPLES
  )
  if (useful.length) return fc.oneof(...useful.map((texts) => texts.filter(fits)))
  return fc.stringMatching(new RegExp(schema.pattern as string, 'u')).filter(fits)
}

/** Lengths count code points, as everywhere in this project. */
function fitting({ pattern = '', minLength = 0, maxLength = Infinity }: Schema) {
  const expression = new RegExp(pattern as string, 'u')
  return (text: string) => {
    const length = [...text].length
    return expression.test(text) && length >= Number(minLength) && length <= Number(maxLength)
  }
}

function numbersOf({ type, minimum, maximum }: Schema): Arbitrary<number> {
  const min = (minimum as number | undefined) ?? -1_000_000
  const max = (maximum as number | undefined) ?? 1_000_000
  return type === 'integer' ? fc.integer({ min, max }) : fc.double({ min, max, noNaN: true })
}

/** Any JSON, but for what no storage need hold. */
const anyJson = fc.jsonValue({ stringUnit: 'binary', maxDepth: 4 }).map(storable)

function storable(value: unknown): unknown {
  if (typeof value === 'string') return value.replaceAll('\0', '')
  if (typeof value === 'number') return isExact(value) ? value : 0.5
  if (Array.isArray(value)) return value.map(storable)
  if (typeof value !== 'object' || value === null) return value
  const entries = Object.entries(value).filter(([key]) => key !== '__proto__')
  return Object.fromEntries(entries.map(([key, inner]) => [storable(key), storable(inner)]))
}

function isExact(number: number): boolean {
  if (Number.isInteger(number)) return Number.isSafeInteger(number)
  return Math.abs(number) >= 1e-40
}

const nastyTexts = [
  '',
  ' ',
  '\0',
  'a\0b',
  '\ud800',
  '\udc00a',
  '\ufeff',
  '\u2028',
  "' or '1'='1' --",
  '"; drop table flows; --',
  '$1',
  '%s%n',
  `$${'{'}7*7}`,
  '{{7*7}}',
  '../../etc/passwd',
  '..',
  '.',
  '%00',
  '%2e%2e',
  'null',
  'undefined',
  'NaN',
  'Infinity',
  '0x10',
  'true',
  '0',
  '-1',
  '1e400',
  '__proto__',
  'constructor',
  '*',
  ',',
  '{}',
  '[]',
  '0000-00-00T00:00:00Z',
  '2026-02-30T00:00:00Z',
  '+010000-01-01T00:00:00Z',
  '019b76da-a800-7000-8000-00000000000g',
  'urn:uuid:019b76da-a800-7000-8000-000000000001',
  'Admin',
  'DRAFT',
  'a@b',
  '<script>alert(1)</script>',
  'a'.repeat(129),
  'x'.repeat(5000),
  '\u{1F600}'.repeat(300)
]

/** Texts that programs trip over. */
export const hostileText = fc.oneof(
  fc.constantFrom(...nastyTexts),
  fc.string({ unit: 'binary', maxLength: 20 }),
  // Any UTF-16 units, halves of surrogate pairs too.
  fc
    .array(fc.integer({ min: 0, max: 0xffff }), { maxLength: 10 })
    .map((units) => String.fromCharCode(...units))
)

/** JSON values that programs trip over. */
export const hostileValue: Arbitrary<unknown> = fc.oneof(
  hostileText,
  fc.constantFrom<unknown>(
    null,
    true,
    false,
    0,
    -1,
    1.5,
    2 ** 53,
    -(2 ** 63),
    1e308,
    5e-324,
    [],
    {},
    [[]],
    [null],
    { '': '' },
    { $gt: '' },
    { $ref: '#' },
    { toString: null },
    { length: -1 },
    Object.fromEntries([['then', 1]]),
    { toJSON: {} },
    { 'a\0b': 1 },
    { '\ud800': 1 },
    JSON.parse('{"__proto__":{"polluted":true}}'),
    { constructor: { prototype: { polluted: true } } },
    deep(40),
    Array(3000).fill(0)
  ),
  fc.jsonValue({ stringUnit: 'binary' }),
  fc.double()
)

/** A change of one place of an object: a property removed, added or given a hostile value. */
export function nearly(
  values: Arbitrary<Readonly<Record<string, unknown>>>,
  known: readonly string[],
  hostile: Arbitrary<unknown> = hostileValue
): Arbitrary<Readonly<Record<string, unknown>>> {
  const names = known.length ? fc.constantFrom(...known) : hostileText
  return fc
    .tuple(values, fc.oneof({ weight: 4, arbitrary: names }, hostileText), hostile, fc.nat(4))
    .map(([value, name, other, choice]) => {
      const rest = Object.entries(value).filter(([key]) => key !== name)
      return Object.fromEntries(choice === 0 ? rest : [...rest, [name, other]])
    })
}

/** Texts that are no JSON, or JSON that nobody sends. */
export const hostileJson = fc.oneof(
  fc.constantFrom(
    '',
    '{',
    '}',
    'null',
    'nul',
    '[]',
    '"',
    '0',
    '-',
    '1e400',
    '{"a":1e400}',
    '{"name":"a","name":1}',
    '{"__proto__":null}',
    '\ufeff{}',
    '{"a":\u0001}',
    '{"name":"\\ud800"}',
    `${'['.repeat(10_000)}${']'.repeat(10_000)}`,
    '['.repeat(10_000)
  ),
  fc.string({ unit: 'binary', maxLength: 30 })
)

function deep(levels: number): unknown {
  return levels === 0 ? null : { in: [deep(levels - 1)] }
}
