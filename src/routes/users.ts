import { Type } from '@sinclair/typebox'
import type { FastifyInstance } from 'fastify'
import { UserSelfUpdate, users } from '../../schemas/users.js'
import { type Caller, etag, ifMatchOf, route, userIdOf } from '../route.js'
import type { UserRow, Users } from '../users.js'
import { resourceRoutes } from './resources.js'

const shown = Type.Ref(users.view.$id as string)

export function userRoutes(app: FastifyInstance, accounts: Users): void {
  route(app, {
    method: 'GET',
    url: '/users/me',
    role: 'viewer',
    operation: { id: 'getOwnUser', tag: 'users', summary: 'Get yourself' },
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
    operation: { id: 'updateOwnUser', tag: 'users', summary: 'Change yourself, but for the role' },
    body: UserSelfUpdate,
    answers: { 200: { description: 'Changed.', schema: shown, headers: ['ETag'] } },
    problems: [404, 409, 412, 422],
    async handler(request, reply, caller) {
      const options = { ifMatch: ifMatchOf(request), ownToken: caller.token }
      const user = await accounts.update(caller.store, userIdOf(caller), request.body, options)
      reply.header('etag', etag(user))
      return withTenantName(user, caller)
    }
  })

  resourceRoutes(app, users, {
    columns: ({ password: _, ...columns }) => columns,
    view: withTenantName,
    newKey: (attempt, { store }) => accounts.newId(store, attempt),
    create: (row, { password }, { store }, along) =>
      accounts.create(store, row, password as string, along),
    update: (id, body, { store, account, token }, options) =>
      accounts.update(store, id, body, {
        ...options,
        ...(id === account.id ? { ownToken: token } : {})
      }),
    remove: (id, { store }, options) => accounts.remove(store, id, options),
    keepsNeeded: true
  })
}

function withTenantName(user: UserRow, { account }: Caller) {
  return { ...user, tenant_name: account.tenantName }
}
