import {
  type TNull,
  type TSchema,
  type TUnion,
  type TUnsafe,
  Type,
  TypeGuard
} from '@sinclair/typebox'
import { patterns } from './patterns.js'

/**
 * The vocabulary of columns. Each builder carries an example, so that rows, requests and the
 * OpenAPI document draw theirs from one place.
 */

/** UTC, ISO 8601, exactly three decimals and `Z`, as every storage returns it. */
export const Timestamp = (example = '2026-01-31T09:30:00.000Z') =>
  Type.String({ format: 'date-time', examples: [example] })

/** Made by the server: a UUIDv7, or of version 8 where an Idempotency-Key decides it. */
export const Uuid = (example = '019b76da-a800-7000-8000-000000000001') =>
  Type.String({ format: 'uuid', examples: [example] })

/** An id that a client may choose. Without one the server makes a prefix plus a UUIDv7. */
export const TextId = (example: string) =>
  Type.String({ maxLength: 128, pattern: patterns.textId, examples: [example] })

/** Short text: 1 to 200 code points, and not only spaces. */
export const Line = (example: string) =>
  Type.String({ minLength: 1, maxLength: 200, pattern: patterns.notBlank, examples: [example] })

/** Free text of any length that fits the body limit; empty by default. */
export const Text = (example: string) => Type.String({ default: '', examples: [example] })

/**
 * An address, compared without regard to case and stored lower-case.
 * 254 is the longest that SMTP can carry (RFC 5321, erratum 1690).
 */
export const Email = (example: string) =>
  Type.String({ format: 'email', maxLength: 254, examples: [example] })

/** One of a closed list of strings. */
export const Choice = <const Values extends readonly string[]>(
  values: Values,
  options: { default?: Values[number]; description?: string; examples?: Values[number][] } = {}
): TUnsafe<Values[number]> =>
  Type.Unsafe<Values[number]>({
    type: 'string',
    enum: values,
    examples: [options.default ?? values[0]],
    ...options
  })

/** Any JSON value, kept as it is but for the order of keys. `null` is the same as absent. */
export const Json = (example: unknown) => Type.Unknown({ examples: [example] })

/**
 * A column that may be empty. Absent in a request is `null` in the row. Any JSON value can be null
 * as it is, and generators make less of a union with it.
 */
export const Nullable = <Schema extends TSchema>(schema: Schema): TUnion<[Schema, TNull]> => {
  if (TypeGuard.IsUnknown(schema)) return schema as never
  const { description, ...bare } = schema
  const options = { examples: schema.examples, ...(description ? { description } : {}) }
  return Type.Union([bare as Schema, Type.Null()], options)
}

/** What a row's `ETag` is made of: grows with every change and is never used again for the same key. */
export const Version = () => Type.Integer({ minimum: 1, examples: [7] })

/** For a parameter that may be left out: Swagger UI sends examples, and the answer would be that to all of them. */
export function withoutExamples<Schema extends TSchema>({
  examples: _,
  ...schema
}: Schema): Schema {
  return schema as unknown as Schema
}
