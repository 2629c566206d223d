import { randomBytes } from 'node:crypto'
import type { TSchema } from '@sinclair/typebox'
import type { Insert } from '../../adapters/storage/port.js'
import { resources } from '../../schemas/registry.js'
import type { AnyResource, Column } from '../../schemas/resource.js'

/** A row as a caller gives it: without the tenant and the stamps. */
export type SampleRow = Record<string, unknown>

/** Columns that the storage fills in. */
const stamped = ['tenant_id', 'created_at', 'updated_at', 'version']

/** Tells these samples from those of another run, in a project that several use at once. */
const run = randomBytes(3).toString('hex')

/** One text for each way in which storages are known to sort differently. */
export const mixedTexts = [
  'z',
  'Z',
  'a',
  'A',
  'a1',
  'a-1',
  'a.1',
  'a_1',
  '0',
  '10',
  '9',
  'é',
  'e\u0301',
  'ß',
  'Ω',
  'Ж',
  'ア',
  '中',
  '\uFF21',
  '\uFFFD',
  '\u{1F600}',
  '\u{20000}'
]

/** JSON values that storages are known to change. */
export const jsonValues: readonly unknown[] = [
  {},
  [],
  '',
  'null',
  '"quoted" \\ / \u0001 \u2028 é \u{1F600}',
  0,
  -1.5,
  0.1,
  1e21,
  5e-324,
  Number.MAX_VALUE,
  Number.MAX_SAFE_INTEGER,
  true,
  false,
  [null],
  [[], {}, [[]], ''],
  { absent: null, list: [null, 1, null], inner: { nothing: null, empty: {}, none: [] } },
  { '': 'no name', ' ': 1, 'a.b': { $ref: '#' }, é: 1, '\u{1F600}': '\u{1F600}', constructor: 1 },
  { b: 1, a: 2, 10: 3, 9: 4, aa: 5 },
  JSON.parse('{"__proto__": {"polluted": true}, "after": 1}'),
  nested(30)
]

/**
 * A row that fits the declaration: `n` tells samples of a resource apart, and a reference points
 * at the sample of the same number.
 */
export function sampleRow(resource: AnyResource, n: number, given: SampleRow = {}): SampleRow {
  const row: SampleRow = {}
  for (const { name } of settableColumns(resource))
    row[name] = name in given ? given[name] : sampleField(resource, name, n)
  return row
}

/** The same, with every column left out that may be. */
export function sparseRow(resource: AnyResource, n: number, given: SampleRow = {}): SampleRow {
  const row: SampleRow = {}
  for (const { name, nullable } of settableColumns(resource))
    if (name in given) row[name] = given[name]
    else if (!nullable) row[name] = sampleField(resource, name, n)
  return row
}

/** The insert of a row, after the inserts of the rows it refers to, unless those are `given`. */
export function sampleInserts(
  resource: AnyResource,
  n: number,
  given: SampleRow = {}
): Insert<AnyResource>[] {
  const row = sampleRow(resource, n, given)
  const targets = resource.references.filter(({ field }) => !(field in given))
  return [
    ...targets.flatMap(({ to }) => sampleInserts(resourceNamed(to), n)),
    { op: 'insert', resource, row }
  ]
}

export function sampleKey(resource: AnyResource, n: number): string {
  return sampleField(resource, resource.key, n) as string
}

export function sampleField(resource: AnyResource, field: string, n: number): unknown {
  const reference = resource.references.find((each) => each.field === field)
  if (reference) return sampleKey(resourceNamed(reference.to), n)
  return sampleValue(fieldSchema(resource, field), n)
}

/** The columns that a caller gives. */
export function settableColumns(resource: AnyResource): Column[] {
  return resource.columns.filter(({ name }) => !stamped.includes(name))
}

/** Columns that can be changed without moving the row or pointing it elsewhere. */
export function plainColumns(resource: AnyResource): Column[] {
  const { key, order, references, unique } = resource
  const special = new Set([
    key,
    order,
    ...references.map(({ field }) => field),
    ...unique.flatMap(({ fields }) => fields)
  ])
  return settableColumns(resource).filter(({ name }) => !special.has(name))
}

/** Columns that some index may hold, which bounds their length in Postgres. */
export function isIndexed({ key, filters, references, unique }: AnyResource, name: string) {
  return (
    name === key ||
    filters.includes(name) ||
    references.some(({ field }) => field === name) ||
    unique.some(({ fields }) => fields.includes(name))
  )
}

/** The schema of a field, without the null that it may be. */
export function fieldSchema(resource: AnyResource, field: string): TSchema {
  const schema = resource.row.properties[field]
  if (!schema) throw new Error(`${resource.name} have no ${field}`)
  const alternatives = schema.anyOf as TSchema[] | undefined
  return alternatives?.find(({ type }) => type !== 'null') ?? schema
}

/** Whether a JSON column takes any value, and not only a list, say. */
export function takesAnyJson(schema: TSchema): boolean {
  return schema.type === undefined
}

export function resourceNamed(name: string): AnyResource {
  const resource = resources.find((each) => each.name === name)
  if (!resource) throw new Error(`no resource is named ${name}`)
  return resource
}

/** Those of the texts that the schema allows. */
export function fittingTexts(schema: TSchema, texts: readonly string[]): string[] {
  if (schema.format !== undefined || schema.enum !== undefined) return []
  return texts.filter((text) => fits(schema, text))
}

/** The longest text that the schema allows, of characters of four bytes where it can; else 1 MB. */
export function longestText(schema: TSchema): string {
  const maximum = schema.maxLength as number | undefined
  if (maximum === undefined) return '\u{1F600}abcd'.repeat(131_072)
  const [text] = fittingTexts(schema, ['\u{1F600}'.repeat(maximum), 'x'.repeat(maximum)])
  return text ?? (sampleValue(schema, 1) as string)
}

/** A UUIDv7 that sorts by its number. */
export function sampleUuid(n: number): string {
  return `019b76da-a800-7${run.slice(0, 3)}-8${run.slice(3)}-${n.toString(16).padStart(12, '0')}`
}

function sampleValue(schema: TSchema, n: number): unknown {
  const choices = schema.enum as unknown[] | undefined
  if (choices) return choices[n % choices.length]
  switch (schema.type) {
    case 'string':
      return sampleText(schema, n)
    case 'integer':
      return sampleInteger(schema, n)
    case 'number':
      return n + 0.5
    case 'boolean':
      return n % 2 === 1
    case 'array':
      return [sampleValue(schema.items as TSchema, n), sampleValue(schema.items as TSchema, n + 1)]
    default:
      return { n, nothing: null, list: [n, 'é \u{1F600}', {}] }
  }
}

/** From the least on, and again from there after the greatest. */
function sampleInteger({ minimum = 0, maximum = Infinity }: TSchema, n: number): number {
  return Number(minimum) + (n % (Number(maximum) - Number(minimum) + 1))
}

function sampleText(schema: TSchema, n: number): string {
  switch (schema.format) {
    case 'uuid':
      return sampleUuid(n)
    case 'date-time':
      return new Date(Date.UTC(2025, 0, 1) + n * 1001).toISOString()
    case 'email':
      return `person${n}.${run}@example.com`
  }
  const texts = [`Größe 東京 \u{1F600} ${n} ${run}`, `Größe-${n}-${run}`, `sample-${n}-${run}`]
  const [text] = fittingTexts(schema, [...texts, `sample-${n}`])
  if (text === undefined) throw new Error(`no sample fits ${JSON.stringify(schema)}`)
  return text
}

/** Lengths count code points, as everywhere in this project. */
function fits({ pattern, minLength = 0, maxLength = Infinity }: TSchema, text: string): boolean {
  const length = [...text].length
  const allowed = typeof pattern !== 'string' || new RegExp(pattern, 'u').test(text)
  return allowed && length >= Number(minLength) && length <= Number(maxLength)
}

function nested(depth: number): unknown {
  return depth === 0 ? null : depth % 2 ? [nested(depth - 1)] : { in: nested(depth - 1) }
}
