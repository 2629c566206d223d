import { type Static, Type } from '@sinclair/typebox'
import { object } from './resource.js'

const FieldProblem = Type.Object(
  {
    in: Type.Unsafe<'body' | 'query' | 'path' | 'headers'>({
      type: 'string',
      enum: ['body', 'query', 'path', 'headers']
    }),
    pointer: Type.String({ description: 'JSON pointer (RFC 6901) to the value.' }),
    detail: Type.String()
  },
  { $id: 'FieldProblem', examples: [{ in: 'body', pointer: '/name', detail: 'must be string' }] }
)

/** Every error of the API, after RFC 9457. */
export const Problem = object(
  'Problem',
  {
    type: Type.String({ examples: ['urn:problem:not_found'] }),
    title: Type.String({ examples: ['Not found'] }),
    status: Type.Integer({ examples: [404] }),
    detail: Type.String({ examples: ['There is no flow flow_onboarding.'] }),
    code: Type.String({ description: 'Stable: programs decide by it.', examples: ['not_found'] }),
    request_id: Type.String({ examples: ['019b76da-a800-7000-8000-000000000009'] }),
    errors: Type.Optional(
      Type.Array(Type.Ref(FieldProblem), {
        description: 'What is wrong with which field, for validation_failed.',
        examples: [FieldProblem.examples as unknown[]]
      })
    )
  },
  { description: 'What went wrong, and what to do about it.' }
)
export type Problem = Static<typeof Problem>
export { FieldProblem }
