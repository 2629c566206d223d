import { Type } from '@sinclair/typebox'
import { Nullable, Timestamp } from './fields.js'
import { patterns } from './patterns.js'
import { defineResource } from './resource.js'

/** How long before its end a secret is said to expire soon, in days: time to replace it. */
export const SOON_DAYS = 14

export const secrets = defineResource({
  name: 'secrets',
  singular: 'secret',
  description:
    'Values that flows need and nobody reads back: the API shows what is about them only.',
  fields: {
    name: Type.String({
      description:
        'Any letters, digits and signs but spaces, control characters, / and \\; not only one or two dots.',
      minLength: 1,
      maxLength: 128,
      pattern: patterns.secretName,
      examples: ['SLACK_TOKEN']
    }),
    /** Base64: nonce (12 bytes), AES-256-GCM ciphertext, tag (16 bytes). */
    ciphertext: Type.String(),
    /** Which of the configured encryption keys opens the ciphertext. */
    key_id: Type.String(),
    expires_at: Nullable(Timestamp('2099-01-31T00:00:00.000Z'))
  },
  key: 'name',
  keys: 'given',
  required: [],
  optional: ['expires_at'],
  hidden: ['ciphertext', 'key_id'],
  writeOnly: { value: Type.String({ minLength: 1, maxLength: 65_536, examples: ['xoxb-…'] }) },
  computed: {
    expired: Type.Boolean({ examples: [false] }),
    expires_soon: Type.Boolean({
      description: `Whether it expires within the next ${SOON_DAYS} days.`,
      examples: [false]
    })
  },
  filters: [],
  audited: true,
  access: {
    read: 'viewer',
    write: 'editor',
    operations: ['list', 'get', 'create', 'replace', 'update', 'delete']
  }
})
