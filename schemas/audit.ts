import { Type } from '@sinclair/typebox'
import { Nullable, Timestamp, Uuid } from './fields.js'
import { defineResource } from './resource.js'

export const audit = defineResource({
  name: 'audit',
  singular: 'audit_entry',
  description: 'Who changed what and when. The system writes it together with the change.',
  fields: {
    id: Uuid(),
    actor: Type.String({
      description: 'The id of the user or API key, or `system`.',
      maxLength: 128,
      examples: ['019b76da-a800-7000-8000-000000000001']
    }),
    action: Type.String({
      description: 'What was done to one: `flow.create`, `api_key.rotate`.',
      maxLength: 128,
      examples: ['flow.create']
    }),
    resource: Type.String({
      description: 'What there are many of, with `_` for the `-` of its path: `flows`, `api_keys`.',
      maxLength: 128,
      examples: ['flows']
    }),
    resource_id: Type.String({
      description: 'The id of the row; of pruned rows, how many they are and how old.',
      maxLength: 256,
      examples: ['flow_onboarding']
    }),
    fields: Type.Array(Type.String(), {
      description: 'Names of the fields that changed, never their values.',
      examples: [['name', 'status']]
    }),
    at: Timestamp(),
    request_id: Nullable(
      Type.String({ maxLength: 128, examples: ['019b76da-a800-7000-8000-000000000009'] })
    )
  },
  key: 'id',
  keys: 'uuid',
  required: [],
  optional: [],
  // The most telling one first: a query goes by its first.
  filters: ['resource_id', 'actor', 'action', 'resource'],
  order: 'at',
  period: true,
  audited: false,
  access: { read: 'admin', write: 'admin', operations: ['list'] }
})
