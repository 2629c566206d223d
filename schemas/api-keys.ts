import { Type } from '@sinclair/typebox'
import { Choice, Line, Nullable, Timestamp, Uuid } from './fields.js'
import { defineResource, object, roles } from './resource.js'

export const apiKeys = defineResource({
  name: 'api_keys',
  path: 'api-keys',
  singular: 'api_key',
  description:
    'Keys that programs call the API with. `last_used_at` is written once a minute at most, and is a change of the row like any other: `updated_at` and the ETag go with it.',
  fields: {
    id: Uuid('019b76da-a800-7000-8000-000000000021'),
    name: Line('Nightly import'),
    role: Choice(roles, { default: 'viewer' }),
    prefix: Type.String({
      description: 'How the key begins, to tell it from others.',
      maxLength: 16,
      examples: ['wfa_4fTq9Z']
    }),
    /** SHA-256 in hex. A key is too random to be guessed, so a slow hash would protect nothing. */
    hash: Type.String({ maxLength: 64 }),
    /** The hash of the key before the last rotation. */
    previous_hash: Nullable(Type.String({ maxLength: 64 })),
    previous_expires_at: Nullable(Timestamp('2026-02-01T09:30:00.000Z')),
    expires_at: Nullable(Timestamp('2099-01-31T00:00:00.000Z')),
    last_used_at: Nullable(Timestamp()),
    owner_id: {
      ...Uuid(),
      description:
        'The user who made the key, or rotated it last. It has no more than the role of its owner, and ends with them.'
    }
  },
  key: 'id',
  keys: 'uuid',
  required: ['name'],
  optional: ['role', 'expires_at'],
  createOnly: ['role', 'expires_at'],
  hidden: ['hash', 'previous_hash'],
  unique: [
    // A key names neither the tenant nor the row: its hash alone must find both.
    { fields: ['hash'], within: 'everywhere' },
    { fields: ['previous_hash'], within: 'everywhere' },
    { fields: ['id'], within: 'everywhere' }
  ],
  filters: ['hash', 'previous_hash'],
  audited: true,
  access: { read: 'admin', write: 'admin', operations: ['list', 'get', 'update', 'delete'] }
})

/** What creating and rotating answer: the only time that the key is shown. */
export const ShownApiKey = object('ShownApiKey', {
  ...apiKeys.view.properties,
  key: Type.String({
    description:
      'Sent with each request as `Authorization: Bearer …`. It is not kept: nobody can show it again.',
    examples: ['wfa_4fTq9Z…']
  })
})

export const ApiKeyRotation = object('ApiKeyRotation', {
  grace_seconds: Type.Optional(
    Type.Integer({
      description: 'How long the old key goes on working.',
      minimum: 0,
      maximum: 2_592_000,
      default: 86_400,
      examples: [3600]
    })
  ),
  expires_at: Type.Optional(Nullable(Timestamp('2099-01-31T00:00:00.000Z')))
})
