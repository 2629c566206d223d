import { Type } from '@sinclair/typebox'
import type { FastifyInstance } from 'fastify'
import type { Identity } from '../../adapters/identity/port.js'
import { UserSelfUpdate, users } from '../../schemas/users.js'
import { clientAddress } from '../client-address.js'
import type { LoginDefence } from '../login-defence.js'
import { ApiError } from '../problems.js'
import { type Caller, etag, ifMatchOf, route, userIdOf } from '../route.js'
import { type Users, withTenantName } from '../users.js'
import { resourceRoutes } from './resources.js'

export interface UserDependencies {
  readonly identity: Identity
  readonly users: Users
  /** The one of sign-in, so that guesses at either count together. */
  readonly defence: LoginDefence
}

const shown = Type.Ref(users.view.$id)
const tag = users.path

export function userRoutes(app: FastifyInstance, dependencies: UserDependencies): void {
  const { identity, defence } = dependencies

  /** The caller's row, whose password it is. */
  async function confirm({ store, principal }: Caller, password: string, address: string) {
    const user = await store.need(users, principal.id)
    await defence.guard(user.email, address, async () => {
      if (!(await identity.checkPassword(user, password))) throw new ApiError('wrong_password')
    })
    return user
  }

  route(app, {
    method: 'GET',
    url: '/users/me',
    role: 'viewer',
    operation: { id: 'getOwnUser', tag, summary: 'Get yourself' },
    answers: { 200: { description: 'You.', schema: shown, headers: ['ETag'] } },
    problems: [404],
    async handler(_request, reply, caller) {
      const user = await caller.store.need(users, userIdOf(caller))
      reply.header('etag', etag(user))
      return withTenantName(user, caller)
    }
  })

  route(app, {
    method: 'PATCH',
    url: '/users/me',
    role: 'viewer',
    operation: {
      id: 'updateOwnUser',
      tag,
      summary: 'Change yourself, but for the role',
      description:
        'A new password or email takes the current password. Wrong ones count as failed sign-ins do.'
    },
    body: UserSelfUpdate,
    answers: { 200: { description: 'Changed.', schema: shown, headers: ['ETag'] } },
    // A name is nobody's guess: only those who send a password, or an email, may have to wait.
    problems: [404, 409, 412, 422, 429],
    async handler(request, reply, caller) {
      const id = userIdOf(caller)
      const { current_password: password, ...change } = request.body
      const user = await dependencies.users.update(caller.store, id, change, {
        ifMatch: ifMatchOf(request),
        ownToken: caller.token,
        ...(password ? { confirmed: await confirm(caller, password, clientAddress(request)) } : {})
      })
      reply.header('etag', etag(user))
      return withTenantName(user, caller)
    }
  })

  resourceRoutes(app, users, {
    columns: ({ password: _, ...columns }) => columns,
    view: withTenantName,
    newKey: (attempt, { store }) => dependencies.users.newId(store, attempt),
    create: (row, { password }, { store }, along) =>
      dependencies.users.create(store, row, password as string, along),
    update(id, body, { store, principal }, options) {
      if (id === principal.owner && (body.password ?? body.email) !== undefined)
        throw new ApiError(
          'forbidden',
          'Change your own password and email with PATCH /api/users/me and your current password.'
        )
      return dependencies.users.update(store, id, body, options)
    },
    remove: (id, { store }, options) => dependencies.users.remove(store, id, options),
    // A password may be refused, many taken emails make one wait, and the last admin stays.
    problems: { create: [429], update: [422, 429], delete: [409] }
  })
}
