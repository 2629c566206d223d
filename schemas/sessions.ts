import { Type } from '@sinclair/typebox'
import { Timestamp, Uuid } from './fields.js'
import { defineResource, type Row } from './resource.js'

export const sessions = defineResource({
  name: 'sessions',
  singular: 'session',
  description:
    'A sign-in of the local identity: the family of refresh tokens that descend from it.',
  fields: {
    id: Uuid(),
    user_id: Uuid(),
    /** How often the refresh token was exchanged; only the newest token may be. */
    generation: Type.Integer({ minimum: 0 }),
    expires_at: Timestamp()
  },
  key: 'id',
  keys: 'uuid',
  required: ['user_id', 'generation', 'expires_at'],
  optional: [],
  references: [{ field: 'user_id', to: 'users', onDelete: 'cascade' }],
  filters: ['user_id'],
  order: 'expires_at',
  audited: false
})
export type Session = Row<typeof sessions>
