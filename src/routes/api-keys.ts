import { Type } from '@sinclair/typebox'
import type { FastifyInstance } from 'fastify'
import { ApiKeyRotation, apiKeys, ShownApiKey } from '../../schemas/api-keys.js'
import { includesRole, type Role } from '../../schemas/resource.js'
import { users } from '../../schemas/users.js'
import { keptOf, newApiKeyText } from '../api-key-text.js'
import type { ApiKeyRow, ApiKeys } from '../api-keys.js'
import { isUser } from '../principals.js'
import { ApiError, refuseValue } from '../problems.js'
import { type Caller, etag, ifMatchOf, route } from '../route.js'
import { newKey, untilUnchanged } from '../store.js'
import { createdAnswer, createRow } from './created-rows.js'
import { idParams, resourceRoutes } from './resources.js'

const shown = Type.Ref(ShownApiKey.$id)
const tag = apiKeys.path

export function apiKeyRoutes(app: FastifyInstance, keys: ApiKeys): void {
  resourceRoutes(app, apiKeys, {
    remove: (id, { store }, options) =>
      untilUnchanged(apiKeys, id, options, async () => {
        const row = await store.need(apiKeys, id, options.ifMatch)
        try {
          // As it was read: what it was exchanged for meanwhile would be remembered for a minute.
          const expect = row.version
          await store.commit([{ op: 'delete', resource: apiKeys, key: id, expect }], options)
        } finally {
          // The row may be gone even where that failed.
          keys.forget(row)
        }
      })
  })

  route(app, {
    method: 'GET',
    url: '/api-keys/me',
    role: 'viewer',
    operation: {
      id: 'getOwnApiKey',
      tag,
      summary: 'Get the API key that you call with',
      description:
        'For programs. `role` is what the key may do at the moment, which is no more than its owner may. Where it was rotated since, `prefix` is that of the new key, and yours ends at `previous_expires_at`.'
    },
    answers: {
      200: { description: 'The key.', schema: Type.Ref(apiKeys.view.$id) }
    },
    problems: [404],
    async handler(_request, _reply, { principal, store }) {
      if (isUser(principal))
        throw new ApiError('not_found', 'You call as a user: GET /api/users/me.')
      return { ...(await store.need(apiKeys, principal.id)), role: principal.role }
    }
  })

  route(app, {
    method: 'POST',
    url: '/api-keys',
    role: 'admin',
    operation: {
      id: 'createApiKey',
      tag,
      summary: 'Create an API key',
      description: 'The answer is the only one that shows the key.'
    },
    body: apiKeys.create,
    answers: createdAnswer(shown),
    creates: true,
    async handler(request, reply, caller) {
      const { name, expires_at = null } = request.body
      // Never absent: checking the body filled in its default.
      const role = request.body.role as Role
      const key = newApiKeyText()
      const row = await createRow(app, request, reply, caller, {
        resource: apiKeys,
        insteadOfRepeat: 'rotate the key',
        make() {
          // Not before: a repeat is answered as the first time, whatever the time is by then.
          assertFuture(expires_at)
          const owner_id = caller.principal.owner
          return { id: newKey(apiKeys), name, role, expires_at, owner_id, ...keptOf(key) }
        }
      })
      return { ...row, key }
    }
  })

  route(app, {
    method: 'POST',
    url: '/api-keys/:id/rotate',
    role: 'admin',
    operation: {
      id: 'rotateApiKey',
      tag,
      summary: 'Exchange an API key for a new one',
      description:
        'The old key goes on working for a while, a day unless told otherwise. One that was rotated ' +
        'before and is still in its time ends at once: at most two keys work. So does one whose owner ' +
        'is gone, or has less than its role by now. You become its owner.'
    },
    params: idParams(apiKeys),
    body: ApiKeyRotation,
    answers: { 200: { description: 'The new key.', schema: shown, headers: ['ETag'] } },
    problems: [409, 412],
    async handler(request, reply, caller) {
      const { principal, store } = caller
      const { id } = request.params
      const { grace_seconds, ...changes } = request.body
      // Never absent: checking the body filled in its default.
      const graceMs = 1000 * (grace_seconds as number)
      const key = newApiKeyText()
      const options = { ifMatch: ifMatchOf(request), verb: 'rotate' }
      const before: ApiKeyRow[] = []
      try {
        const row = await store.update(
          apiKeys,
          id,
          async (old) => {
            before.push(old)
            const { expires_at = old.expires_at } = changes
            assertFuture(expires_at)
            const grace = (await hasItsRole(old, caller)) ? graceMs : 0
            return {
              ...keptOf(key),
              owner_id: principal.owner,
              previous_hash: old.hash,
              previous_expires_at: earliest(Date.now() + grace, old.expires_at, expires_at),
              ...changes
            }
          },
          options
        )
        reply.header('etag', etag(row))
        return { ...row, key }
      } finally {
        // The row may be another even where that failed.
        for (const each of before) keys.forget(each)
      }
    }
  })
}

/** Whether a key has what its row says. One that lost it does not get it back by having a new owner. */
async function hasItsRole(
  { owner_id, role }: ApiKeyRow,
  { principal, store }: Caller
): Promise<boolean> {
  if (owner_id === principal.owner) return true
  const owner = await store.get(users, owner_id)
  return owner !== null && includesRole(owner.role, role)
}

/** @throws ApiError `validation_failed` */
function assertFuture(expiresAt: string | null): void {
  if (expiresAt === null || Date.parse(expiresAt) > Date.now()) return
  const detail = 'is in the past: send a later one, or null for a key that does not expire'
  refuseValue('body', '/expires_at', detail)
}

/** When the old of two keys ends: it lives no longer than its row, neither as it was nor as it is. */
function earliest(graceEnd: number, ...ends: readonly (string | null)[]): string {
  const times = ends.flatMap((end) => (end === null ? [] : [Date.parse(end)]))
  return new Date(Math.min(graceEnd, ...times)).toISOString()
}
