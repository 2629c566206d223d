import { type TSchema, Type } from '@sinclair/typebox'
import { Choice, withoutExamples } from '../schemas/fields.js'

interface AnswerHeader {
  readonly description: string
  /** Whether no answer that documents it is without it. */
  readonly required: boolean
  readonly schema: TSchema
  readonly example: unknown
}

/** Headers of answers, as the document describes them. */
export const answerHeaders = {
  'X-Request-Id': {
    description: 'Names the request in logs, in the audit and in problems.',
    required: true,
    schema: Type.String({ format: 'uuid' }),
    example: '019b76da-a800-7000-8000-000000000009'
  },
  ETag: {
    description: 'The version, for If-Match.',
    required: true,
    schema: Type.String({ pattern: '^"\\d+"$' }),
    example: '"7"'
  },
  Location: {
    description: 'Where the created row is.',
    required: true,
    schema: Type.String({ format: 'uri-reference' }),
    example: '/api/flows/flow_onboarding'
  },
  Link: {
    description: 'The address of the next page; absent on the last.',
    required: false,
    schema: Type.String({ pattern: '^<[^>]+>; rel="next"$' }),
    example: '</api/flows?limit=50&cursor=eyJ2IjoxfQ>; rel="next"'
  },
  'X-Total-Count': {
    description: 'The number of all rows, whatever the page; with `count=exact` only.',
    required: false,
    schema: Type.Integer({ minimum: 0 }),
    example: 1234
  },
  'X-Cache': {
    description: 'Whether the answer was kept from an earlier request, or shared with another.',
    required: true,
    schema: withoutExamples(Choice(['hit', 'miss'])),
    example: 'miss'
  },
  'WWW-Authenticate': {
    description: 'What to sign in with.',
    required: true,
    schema: Type.String(),
    example: 'Bearer'
  },
  'Accept-Encoding': {
    description: 'How a body may be encoded; where that was what is wrong.',
    required: false,
    schema: Type.String(),
    example: 'identity'
  },
  'Retry-After': {
    description:
      'Seconds to wait before the request may be repeated; absent where that might do it twice, or nobody knows.',
    required: false,
    schema: Type.Integer({ minimum: 0 }),
    example: 1
  },
  'RateLimit-Limit': {
    description: 'How many requests the limit allows in its time; absent where none was counted.',
    required: false,
    schema: Type.Integer({ minimum: 0 }),
    example: 20
  },
  'RateLimit-Remaining': {
    description: 'How many of them are left; absent where none was counted.',
    required: false,
    schema: Type.Integer({ minimum: 0 }),
    example: 19
  },
  'RateLimit-Reset': {
    description: 'Seconds until all of them are to be had again; absent where none was counted.',
    required: false,
    schema: Type.Integer({ minimum: 0 }),
    example: 60
  }
} as const satisfies Record<string, AnswerHeader>

export type AnswerHeaderName = keyof typeof answerHeaders
