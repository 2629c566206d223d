import { Type } from '@sinclair/typebox'
import { Choice, Email, Line, Nullable, Timestamp, Uuid } from './fields.js'
import { defineResource, object, type Row, roles } from './resource.js'

/**
 * Lengths of passwords, in characters: 8 is the least and 64 the least maximum of NIST SP 800-63B,
 * 5.1.1.2; the upper bound here only keeps hashing cheap.
 */
export const LEAST_PASSWORD_LENGTH = 8
export const MOST_PASSWORD_LENGTH = 256

export const Password = () =>
  Type.String({
    minLength: LEAST_PASSWORD_LENGTH,
    maxLength: MOST_PASSWORD_LENGTH,
    examples: ['correct horse battery staple']
  })

/** Shorter than any that can be chosen is wrong, not invalid: both must answer the same. */
export const PasswordToCheck = (options: { description?: string } = {}) =>
  Type.String({ minLength: 1, maxLength: MOST_PASSWORD_LENGTH, examples: ['admin123'], ...options })

export const users = defineResource({
  name: 'users',
  singular: 'user',
  description: 'People of a tenant. An email belongs to one user of one tenant.',
  fields: {
    id: Uuid(),
    email: Email('ada@example.com'),
    name: Line('Ada Lovelace'),
    role: Choice(roles, { default: 'viewer' }),
    /** argon2id in PHC format; null where another service keeps the passwords. */
    password_hash: Nullable(Type.String()),
    /** When the password was changed last: sessions that began before are over. */
    sessions_from: Nullable(Timestamp()),
    /** The one session that goes on all the same: that of whoever changed the own password. */
    session_kept: Nullable(Type.String())
  },
  key: 'id',
  keys: 'uuid',
  required: ['email', 'name'],
  optional: ['role'],
  hidden: ['password_hash', 'sessions_from', 'session_kept'],
  writeOnly: { password: Password() },
  computed: { tenant_name: Line('Acme') },
  unique: [
    { fields: ['email'], within: 'everywhere' },
    // A token names the user and not the tenant, so the id alone must find the row.
    { fields: ['id'], within: 'everywhere' }
  ],
  filters: ['role', 'email'],
  audited: true,
  access: {
    read: 'admin',
    write: 'admin',
    operations: ['list', 'get', 'create', 'update', 'delete']
  }
})
export type User = Row<typeof users>

const { role: _, ...own } = users.update.properties
/**
 * What users may change of themselves. Whoever has come by a token must not get to keep the user (OWASP
 * ASVS 5.0, 6.2.3 and 7.5.1).
 */
export const UserSelfUpdate = object(
  'UserSelfUpdate',
  {
    ...own,
    current_password: Type.Optional(
      PasswordToCheck({
        description: 'The password as it is now: must be sent with a `password` or an `email`.'
      })
    )
  },
  {
    minProperties: 1,
    dependentRequired: { password: ['current_password'], email: ['current_password'] },
    dependentSchemas: { current_password: { minProperties: 2 } }
  }
)
