import type { FastifyRequest } from 'fastify'
import type { Identity } from '../adapters/identity/port.js'
import type { Storage } from '../adapters/storage/port.js'
import { type Account, type Accounts, isEnded } from './accounts.js'
import { looksLikeApiKey } from './api-key-text.js'
import type { ApiKeys } from './api-keys.js'
import { ApiError } from './problems.js'
import { includesRole, unauthenticated } from './route.js'
import { createStore } from './store.js'

export interface Admission {
  readonly storage: Storage
  readonly identity: Identity
  readonly accounts: Accounts
  readonly apiKeys: ApiKeys
}

/** Admits a request to its route: finds out who calls, and whether the role is enough. */
export function authenticate({ storage, identity, accounts, apiKeys }: Admission) {
  async function accountOf(token: string): Promise<Account> {
    if (looksLikeApiKey(token))
      return (
        (await apiKeys.verify(token)) ??
        unauthenticated('The API key is unknown, revoked or expired, or its owner is gone.')
      )
    const userId = await identity.verify(token)
    const account = userId === null ? null : await accounts.get(userId)
    // Most accounts never ended a session, and need no look at the token.
    const isOver = account?.sessions && isEnded(account, identity.sessionOf(token))
    return account && !isOver
      ? account
      : unauthenticated('The token is not valid, or no more. Sign in again.')
  }

  return async (request: FastifyRequest): Promise<void> => {
    const { role } = request.routeOptions.config
    // Without a role it is no route of ours: the answer is 404, signed in or not.
    if (role === undefined || role === 'anyone') return
    const token = bearerToken(request.headers.authorization)
    const account = await accountOf(token)
    if (!includesRole(account.role, role))
      throw new ApiError('forbidden', `This takes the role ${role}; yours is ${account.role}.`)
    const origin = { tenant: account.tenant, actor: account.id, requestId: request.id }
    request.caller = { account, token, store: createStore(storage, origin) }
  }
}

function bearerToken(header: string | undefined): string {
  const [, token] = /^Bearer +([^ ]+)$/i.exec(header ?? '') ?? []
  return (
    token ??
    unauthenticated('Send a token from sign-in, or an API key, as Authorization: Bearer <token>.')
  )
}
