import { type Static, Type } from '@sinclair/typebox'
import { Email, Line } from './fields.js'
import { object } from './resource.js'
import { Password, PasswordToCheck, users } from './users.js'

/** The bodies and answers of sign-in. */

export const Registration = object('Registration', {
  tenant_name: Line('Acme'),
  name: Line('Ada Lovelace'),
  email: Email('ada@example.com'),
  password: Password()
})

/** The example is the sign-in of the demo, so that the docs can be tried as they are. */
export const Credentials = object('Credentials', {
  email: Email('admin@example.com'),
  password: PasswordToCheck()
})

const refreshToken = Type.String({ minLength: 1, maxLength: 4096, examples: ['eyJhbGciOi…'] })

export const RefreshRequest = object('RefreshRequest', { refresh_token: refreshToken })

export const Tokens = object('Tokens', {
  token: Type.String({
    description: 'Sent with each request as `Authorization: Bearer …`.',
    examples: ['eyJhbGciOi…']
  }),
  refresh_token: refreshToken,
  expires_in: Type.Integer({ description: 'Life of the token in seconds.', examples: [900] })
})
export type Tokens = Static<typeof Tokens>

export const SignedIn = object('SignedIn', {
  user: Type.Unsafe<typeof users.view.static>(
    Type.Ref(users.view.$id, { examples: users.view.examples as unknown[] })
  ),
  ...Tokens.properties
})
