import type { FastifyRequest, HookHandlerDoneFunction } from 'fastify'
import { type Awaitable, whenThere } from '../adapters/awaitable.js'
import type { Identity } from '../adapters/identity/port.js'
import type { Storage } from '../adapters/storage/port.js'
import { includesRole, type Role } from '../schemas/resource.js'
import { looksLikeApiKey } from './api-key-text.js'
import type { ApiKeys } from './api-keys.js'
import { isEnded, type Principal, type Principals } from './principals.js'
import { ApiError } from './problems.js'
import { createStore } from './store.js'

export interface Admission {
  readonly storage: Storage
  readonly identity: Identity
  readonly principals: Principals
  readonly apiKeys: ApiKeys
}

/** Admits a request to its route: finds out who calls, and whether the role is enough. */
export function authenticate({ storage, identity, principals, apiKeys }: Admission) {
  function principalOf(token: string): Awaitable<Principal> {
    return looksLikeApiKey(token)
      ? apiKeys.verify(token).then(principalOfKey)
      : whenThere(identity.verify(token), (userId) => principalOfUser(token, userId))
  }

  function principalOfUser(token: string, userId: string | null): Awaitable<Principal> {
    return whenThere(userId === null ? null : principals.get(userId), (principal) => {
      // Most principals never ended a session, and need no look at the token.
      const isOver = principal?.sessions && isEnded(principal, identity.sessionOf(token))
      return principal && !isOver
        ? principal
        : unauthenticated('The token is invalid or no longer valid. Refresh it, or sign in again.')
    })
  }

  function admit(request: FastifyRequest, role: Role): Awaitable<void> {
    const token = bearerToken(request.headers.authorization)
    return whenThere(principalOf(token), (principal) => {
      if (!includesRole(principal.role, role))
        throw new ApiError('forbidden', `This needs the role ${role}; yours is ${principal.role}.`)
      const origin = { tenant: principal.tenant, actor: principal.id, requestId: request.id }
      request.caller = { principal, token, store: createStore(storage, origin) }
    })
  }

  /** Calls back where nothing is waited for; a promise is for Fastify, which refuses by any rejection. */
  return (request: FastifyRequest, _reply: unknown, done: HookHandlerDoneFunction) => {
    const { role } = request.routeOptions.config
    // Without a role it is no route of ours: the answer is 404, signed in or not.
    const needsNobody = role === undefined || role === 'anyone'
    const admitted = needsNobody ? undefined : admit(request, role)
    if (admitted instanceof Promise) return admitted
    done()
  }
}

function principalOfKey(principal: Principal | null): Principal {
  return (
    principal ??
    unauthenticated('The API key is unknown, revoked or expired, or its owner is gone.')
  )
}

function bearerToken(header: string | undefined): string {
  const [, token] = /^Bearer +([^ ]+)$/i.exec(header ?? '') ?? []
  return (
    token ??
    unauthenticated('Send a token from sign-in, or an API key, as Authorization: Bearer <token>.')
  )
}

function unauthenticated(detail: string): never {
  throw new ApiError('unauthenticated', detail)
}
