import { type Static, Type } from '@sinclair/typebox'
import { Choice } from './fields.js'
import { object } from './resource.js'

export const FieldProblem = object('FieldProblem', {
  in: Choice(['body', 'query', 'path', 'headers'], { description: 'The part of the request.' }),
  pointer: Type.String({
    description: 'JSON pointer (RFC 6901) to the value; empty for the whole part.',
    examples: ['/name']
  }),
  detail: Type.String({ examples: ['is required'] })
})

/** Every error of the API, after RFC 9457. */
export const Problem = object(
  'Problem',
  {
    type: Type.String({
      description: 'The code as a URN, as RFC 9457 has it.',
      examples: ['urn:problem:validation_failed']
    }),
    title: Type.String({ description: 'The code in words.', examples: ['Invalid request'] }),
    status: Type.Integer({ description: 'The HTTP status.', examples: [400] }),
    detail: Type.String({
      description: 'What was wrong this time, and what to do about it. For people: it may change.',
      examples: ['body /name: is required.']
    }),
    code: Type.String({
      description: 'Stable: programs decide by it. Later releases may have others.',
      examples: ['validation_failed']
    }),
    request_id: Type.String({
      description: 'As in X-Request-Id and in the log.',
      examples: ['019b76da-a800-7000-8000-000000000009']
    }),
    errors: Type.Optional(
      Type.Array(Type.Ref(FieldProblem), {
        description: 'What is wrong with which field, for validation_failed and unsafe_value.',
        examples: [FieldProblem.examples as unknown[]]
      })
    ),
    id: Type.Optional(
      Type.String({
        description: 'What was created before, for already_created.',
        examples: ['019b76da-a800-7000-8000-000000000001']
      })
    )
  },
  {
    description: 'What went wrong, and what to do about it.',
    examples: [
      {
        type: 'urn:problem:validation_failed',
        title: 'Invalid request',
        status: 400,
        detail: 'body /name: is required.',
        code: 'validation_failed',
        request_id: '019b76da-a800-7000-8000-000000000009',
        errors: FieldProblem.examples as unknown[]
      }
    ]
  }
)
export type Problem = Static<typeof Problem>
