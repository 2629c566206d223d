import { Ajv, type ErrorObject, type Options } from 'ajv'
import formats from 'ajv-formats'
import type { FastifyServerOptions } from 'fastify'
import { toTimestamp } from '../adapters/storage/timestamp.js'

/**
 * Bodies are JSON and mean what they say: `"5"` is no number and null no string. Paths and queries
 * are text, so their numbers are read from it.
 */
export const buildValidator = ((shared: Readonly<Record<string, object>>) => {
  const strict = createAjv({ coerceTypes: false })
  const coercing = createAjv({ coerceTypes: true })
  for (const schema of Object.values(shared)) {
    strict.addSchema(schema)
    coercing.addSchema(schema)
  }
  return ({ schema, httpPart }: { schema: object; httpPart?: string }) =>
    (httpPart === 'body' ? strict : coercing).compile(schema)
}) as unknown as BuildValidator

type BuildValidator = NonNullable<
  NonNullable<
    NonNullable<FastifyServerOptions['schemaController']>['compilersFactory']
  >['buildValidator']
>

export function createAjv(options: Options): Ajv {
  const ajv = new Ajv({ useDefaults: true, allErrors: true, ...options })
  formats.default(ajv, ['date-time', 'email', 'uuid'])
  const dateTime = ajv.formats['date-time'] as { validate: (text: string) => boolean }
  // RFC 3339 has leap seconds and the year 0, which no storage can hold.
  ajv.addFormat('date-time', (text) => dateTime.validate(text) && toTimestamp(text) !== null)
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
