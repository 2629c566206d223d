import { Ajv, type ErrorObject, type Options, type ValidateFunction } from 'ajv'
import dependent from 'ajv/dist/vocabularies/next.js'
import formats from 'ajv-formats'
import type { FastifyServerOptions } from 'fastify'
import { toTimestamp } from '../adapters/storage/timestamp.js'
import { patternsInWords } from '../schemas/patterns.js'
import { jsonPointer } from './json-pointer.js'

/**
 * Bodies are JSON and mean what they say: `"5"` is no number and null no string. Paths and queries
 * are text, so their numbers are read from it.
 */
export const buildValidator = ((shared: Readonly<Record<string, object>>) => {
  const ajv = createAjv()
  for (const schema of Object.values(shared)) ajv.addSchema(schema)
  return ({ schema: given, httpPart }: { schema: object; httpPart?: string }) => {
    const schema = httpPart === 'headers' ? withLowerCaseNames(given) : given
    const check = compiledWhenNeeded(ajv, schema)
    return httpPart === 'body' ? check : readingText(check, schema)
  }
}) as unknown as BuildValidator

type BuildValidator = NonNullable<
  NonNullable<
    NonNullable<FastifyServerOptions['schemaController']>['compilersFactory']
  >['buildValidator']
>

/** Whether a value is valid, and with the last that was not, why. */
export interface Check {
  (data: unknown): boolean
  errors?: ValidateFunction['errors']
}

/** Compiling takes longer than starting: what is not asked for is not compiled. */
export function compiledWhenNeeded(ajv: Ajv, schema: object): Check {
  let compiled: ValidateFunction | undefined
  const check: Check = (data) => {
    compiled ??= ajv.compile(schema)
    const valid = compiled(data)
    check.errors = compiled.errors
    return valid
  }
  return check
}

/** As Node gives the names of headers; Fastify leaves that to a compiler of one's own. */
function withLowerCaseNames(schema: { properties?: object }): object {
  const properties = Object.entries(schema.properties ?? {}).map(([name, each]) => [
    name.toLowerCase(),
    each
  ])
  return { ...schema, properties: Object.fromEntries(properties) }
}

/**
 * Reads the numbers, booleans and UUIDs of a path, a query or an environment before they are checked.
 * Ajv's own coercion takes hex, spaces and `Infinity`, which then passes any maximum.
 */
export function readingText(check: Check, { properties = {} }: { properties?: object }) {
  const readers = Object.entries(properties).flatMap(([name, each]) => {
    const read = readerOf(each)
    return read ? [{ name, read }] : []
  })
  const validate = (data: Record<string, unknown>) => {
    for (const { name, read } of readers) {
      const text = data[name]
      if (typeof text === 'string') data[name] = read(text)
    }
    const valid = check(data)
    // Of what a query has more than once, its parser makes a list.
    const lists = valid ? [] : Object.keys(properties).filter((name) => Array.isArray(data[name]))
    validate.errors = lists.length ? withoutLists(check.errors ?? [], lists) : check.errors
    return valid
  }
  validate.errors = undefined as ValidateFunction['errors']
  return validate
}

/** What is wrong, where a list is as wrong as it can be. */
function withoutLists(errors: readonly ErrorObject[], lists: readonly string[]): ErrorObject[] {
  const paths = lists.map((name) => `/${name}`)
  const others = errors.filter(({ instancePath }) => !paths.includes(instancePath))
  return [...paths.map(givenRepeatedly), ...others]
}

function givenRepeatedly(instancePath: string): ErrorObject {
  const message = 'is given more than once'
  return { keyword: 'once', instancePath, schemaPath: '', params: {}, message }
}

function readerOf({ type, format }: { type?: string; format?: string }) {
  if (type === 'integer' || type === 'number') return toNumber
  if (type === 'boolean') return toBoolean
  return format === 'uuid' ? toLowerCase : undefined
}

/** UUIDs are made in lower case, and are the same in capitals (RFC 9562, 4). */
function toLowerCase(text: string): string {
  return text.toLowerCase()
}

function toNumber(text: string): unknown {
  return /^-?\d+(\.\d+)?$/.test(text) ? Number(text) : text
}

function toBoolean(text: string): unknown {
  return text === 'true' || text === 'false' ? text === 'true' : text
}

export function createAjv(options: Options = {}): Ajv {
  // The schemas are made by TypeBox: checking them against that of all schemas says nothing new.
  const ajv = new Ajv({
    useDefaults: true,
    allErrors: true,
    meta: false,
    validateSchema: false,
    ...options
  })
  ajv.addVocabulary(dependent.default)
  formats.default(ajv, ['date-time', 'email', 'uuid'])
  const dateTime = ajv.formats['date-time'] as { validate: (text: string) => boolean }
  // RFC 3339 has leap seconds and the year 0, which no storage can hold. Ajv lets more pass than
  // RFC 3339, such as a space for the T, which JavaScript takes for another time or for none.
  const form = /^[^\s]{10}T[^\s]+(Z|[+-]\d\d:\d\d)$/i
  ajv.addFormat(
    'date-time',
    (text) => form.test(text) && dateTime.validate(text) && toTimestamp(text) !== null
  )
  return ajv
}

/** Of a nullable field Ajv also says that it is not null, and that none of both fits. */
export function isAboutNull({ keyword, params }: Pick<ErrorObject, 'keyword' | 'params'>): boolean {
  return keyword === 'anyOf' || (keyword === 'type' && params.type === 'null')
}

/** JSON pointer to what is wrong: to a missing or unknown property, not to the object around it. */
export function pointerOf({
  instancePath,
  params
}: Pick<ErrorObject, 'instancePath' | 'params'>): string {
  const name = params.missingProperty ?? params.additionalProperty
  return typeof name === 'string' ? instancePath + jsonPointer([name]) : instancePath
}

/** What is wrong with a value, to go after its name. */
export function describeViolation(
  error: Pick<ErrorObject, 'keyword' | 'params'> & { message?: string | undefined }
): string {
  const { keyword, message, params } = error
  if (keyword === 'required') return 'is required'
  if (keyword === 'dependentRequired') return `must be sent with ${params.property}`
  if (keyword === 'additionalProperties') return 'cannot be set here: leave it out'
  if (keyword === 'format' && params.format === 'date-time')
    return 'is not a time between the years 1 and 9999, such as 2026-01-31T09:30:00Z'
  if (keyword === 'type' && params.type === 'boolean') return 'must be true or false'
  if (keyword === 'minProperties')
    return `must have at least ${params.limit} ${params.limit === 1 ? 'field' : 'fields'}`
  if (keyword === 'enum') return `must be one of ${(params.allowedValues as string[]).join(', ')}`
  const words = keyword === 'pattern' ? patternsInWords[params.pattern as string] : undefined
  return words ?? message ?? 'is not valid'
}
