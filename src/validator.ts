import { Ajv, type ErrorObject, type Options, type ValidateFunction } from 'ajv'
import formats from 'ajv-formats'
import type { FastifyServerOptions } from 'fastify'
import { toTimestamp } from '../adapters/storage/timestamp.js'

/**
 * Bodies are JSON and mean what they say: `"5"` is no number and null no string. Paths and queries
 * are text, so their numbers are read from it.
 */
export const buildValidator = ((shared: Readonly<Record<string, object>>) => {
  const ajv = createAjv({ coerceTypes: false })
  for (const schema of Object.values(shared)) ajv.addSchema(schema)
  return ({ schema, httpPart }: { schema: object; httpPart?: string }) => {
    const check = ajv.compile(schema)
    return httpPart === 'body' ? check : readingNumbers(check, schema)
  }
}) as unknown as BuildValidator

type BuildValidator = NonNullable<
  NonNullable<
    NonNullable<FastifyServerOptions['schemaController']>['compilersFactory']
  >['buildValidator']
>

/**
 * Reads the numbers of a path or a query before they are checked. Ajv's own coercion takes hex,
 * spaces and `Infinity`, which then passes any maximum.
 */
function readingNumbers(check: ValidateFunction, schema: { properties?: object }) {
  const numbers = Object.entries(schema.properties ?? {})
    .filter(([, { type }]) => type === 'integer' || type === 'number')
    .map(([name]) => name)
  const validate = (data: Record<string, unknown>) => {
    for (const name of numbers) {
      const text = data[name]
      if (typeof text === 'string' && /^-?\d+(\.\d+)?$/.test(text)) data[name] = Number(text)
    }
    const valid = check(data)
    validate.errors = check.errors
    return valid
  }
  validate.errors = undefined as ValidateFunction['errors']
  return validate
}

export function createAjv(options: Options): Ajv {
  const ajv = new Ajv({ useDefaults: true, allErrors: true, ...options })
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

/** What is wrong with a value, to go after its name. */
export function describeViolation(
  error: Pick<ErrorObject, 'keyword' | 'params'> & { message?: string | undefined }
): string {
  const { keyword, message, params } = error
  if (keyword === 'required') return 'is required'
  if (keyword === 'additionalProperties') return 'is not a known field'
  if (keyword === 'enum') return `must be one of ${(params.allowedValues as string[]).join(', ')}`
  return message ?? 'is not valid'
}
