import { Type } from '@sinclair/typebox'
import { Json, Nullable, Timestamp } from './fields.js'
import { defineResource } from './resource.js'

export const idempotencyKeys = defineResource({
  name: 'idempotency_keys',
  singular: 'idempotency_key',
  description:
    'What requests with an Idempotency-Key created, stored in the same commit as that: a repeat is answered from here.',
  fields: {
    /** SHA-256, in hex, of who asked, the route and the key. */
    id: Type.String({ maxLength: 64 }),
    /** Digest of the request under an encryption key: a body may hold a password. */
    request_digest: Type.String({ maxLength: 64 }),
    /** The key of the row that was made. */
    resource_id: Type.String({ maxLength: 256 }),
    /**
     * The row as it was made, without hidden columns, and without the stamps, which are this
     * record's own; null where the answer carried a credential.
     */
    content: Nullable(Json({ id: 'flow_onboarding', name: 'Onboarding' })),
    expires_at: Timestamp()
  },
  key: 'id',
  keys: 'given',
  required: ['request_digest', 'resource_id', 'expires_at'],
  optional: ['content'],
  filters: [],
  order: 'expires_at',
  period: true,
  audited: false
})
