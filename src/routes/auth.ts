import { setTimeout as sleep } from 'node:timers/promises'
import { Type } from '@sinclair/typebox'
import type { FastifyInstance } from 'fastify'
import type { Identity, SignedIn as SignedInAccount } from '../../adapters/identity/port.js'
import { isStorageError } from '../../adapters/storage/errors.js'
import { ACROSS_TENANTS, type Storage } from '../../adapters/storage/port.js'
import { Credentials, RefreshRequest, Registration, SignedIn, Tokens } from '../../schemas/auth.js'
import { users } from '../../schemas/users.js'
import { clientAddress } from '../client-address.js'
import type { LoginDefence } from '../login-defence.js'
import { isEnded, isUser, type Principals } from '../principals.js'
import { ApiError } from '../problems.js'
import { route, userIdOf } from '../route.js'
import { type Users, withTenantName } from '../users.js'

export interface AuthDependencies {
  readonly storage: Storage
  readonly identity: Identity
  readonly principals: Principals
  readonly users: Users
  readonly registration: 'open' | 'closed'
  readonly defence: LoginDefence
}

const tag = 'auth'
const SECOND_MS = 1000
/** How often a sign-in waits for the next second: more than once where clocks differ. */
const MOST_TRIES = 3
const signedIn = Type.Ref(SignedIn.$id)

export function authRoutes(app: FastifyInstance, dependencies: AuthDependencies): void {
  const { storage, identity, principals, defence } = dependencies

  /** What sign-in answers, or null where the account has no row any more. */
  async function describe({ userId, tokens }: SignedInAccount) {
    principals.forget(userId)
    const principal = await principals.get(userId)
    const user = await storage.get({ resource: users, tenant: ACROSS_TENANTS }, userId)
    return principal && user && { user: withTenantName(user, { principal }), ...tokens }
  }

  /** By the row as it is now: an exchange is rare, and gives what holds for a while. */
  async function goesOn({ userId, tokens }: SignedInAccount): Promise<boolean> {
    principals.forget(userId)
    try {
      const principal = await principals.get(userId)
      return principal !== null && !isEnded(principal, identity.sessionOf(tokens.token))
    } catch (error) {
      // The old token is used up by now, and it is asked again whenever the new one is used.
      if (isStorageError(error, 'unavailable')) return true
      throw error
    }
  }

  async function signIn(
    email: string,
    password: string,
    tries = MOST_TRIES
  ): Promise<NonNullable<Awaited<ReturnType<typeof describe>>>> {
    const session = await identity.signIn(email.toLowerCase(), password)
    const answer = session && (await describe(session))
    if (!answer) throw new ApiError('invalid_credentials')
    const principal = await principals.get(session.userId)
    const isOver = principal && isEnded(principal, identity.sessionOf(session.tokens.token))
    if (!isOver || tries === 1) return answer
    // A token that tells whole seconds, in the one in which the password was changed.
    await sleep(SECOND_MS)
    return signIn(email, password, tries - 1)
  }

  route(app, {
    method: 'POST',
    url: '/auth/register',
    role: 'anyone',
    limited: true,
    operation: {
      id: 'register',
      tag,
      summary: 'Create a tenant and its first admin',
      description: 'An existing tenant cannot be joined this way: its admins create its users.'
    },
    body: Registration,
    answers: { 201: { description: 'Created, and signed in.', schema: signedIn } },
    problems: [403],
    creates: true,
    async handler(request, reply) {
      if (dependencies.registration === 'closed') throw new ApiError('registration_closed')
      const { email, password } = request.body
      // Nobody is signed in: an email is as good as an actor, and one that moves keeps its key.
      const attempt = app.idempotency.attempt(request, email.toLowerCase())
      await dependencies.users.register(request.body, attempt, request.id)
      reply.code(201)
      try {
        return await signIn(email, password)
      } catch (cause) {
        // As it is, it would say that nothing was changed.
        if (!isStorageError(cause, 'unavailable')) throw cause
        const detail = 'The tenant and its admin are made, and not signed in: do that in a moment.'
        throw new ApiError('outcome_unknown', detail, { cause })
      }
    }
  })

  route(app, {
    method: 'POST',
    url: '/auth/login',
    role: 'anyone',
    limited: true,
    operation: { id: 'login', tag, summary: 'Sign in' },
    body: Credentials,
    answers: { 200: { description: 'Signed in.', schema: signedIn } },
    problems: [401],
    handler: (request) => {
      const { email, password } = request.body
      return defence.guard(email, clientAddress(request), () => signIn(email, password))
    }
  })

  route(app, {
    method: 'POST',
    url: '/auth/refresh',
    role: 'anyone',
    limited: true,
    operation: {
      id: 'refresh',
      tag,
      summary: 'Exchange a refresh token for new tokens',
      description:
        'Each refresh token is good once. With the local sign-in, using one again ends the session; ' +
        'Supabase Auth tolerates it for some seconds.'
    },
    body: RefreshRequest,
    answers: { 200: { description: 'New tokens.', schema: Type.Ref(Tokens.$id) } },
    problems: [401],
    async handler({ body }) {
      const session = await identity.refresh(body.refresh_token)
      if (!session || !(await goesOn(session))) throw new ApiError('invalid_refresh_token')
      return session.tokens
    }
  })

  route(app, {
    method: 'POST',
    url: '/auth/logout',
    role: 'viewer',
    operation: {
      id: 'logout',
      tag,
      summary: 'End the session',
      description:
        'Its refresh token is void at once; the access token runs out by itself. An API key has no ' +
        'session, and goes on.'
    },
    answers: { 204: { description: 'Ended.' } },
    async handler(_request, reply, { principal, token }) {
      // An API key has no session, and is for nobody else to see.
      if (isUser(principal)) await identity.signOut(token)
      return reply.code(204).send()
    }
  })

  route(app, {
    method: 'GET',
    url: '/auth/me',
    role: 'viewer',
    operation: { id: 'getSignedInUser', tag, summary: 'Get who is signed in' },
    answers: {
      200: { description: 'The user.', schema: Type.Ref(users.view.$id) }
    },
    problems: [404],
    async handler(_request, _reply, caller) {
      const user = await caller.store.need(users, userIdOf(caller))
      return withTenantName(user, caller)
    }
  })
}
