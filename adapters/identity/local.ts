import { createDecoder, createSigner, createVerifier } from 'fast-jwt'
import { LRUCache } from 'lru-cache'
import { type Session, sessions } from '../../schemas/sessions.js'
import { type User, users } from '../../schemas/users.js'
import { isStorageError, StorageError } from '../storage/errors.js'
import { ACROSS_TENANTS, type Storage, type TenantId } from '../storage/port.js'
import { instantOf, uuid } from '../uuid.js'
import { withNormalPasswords } from './normal-passwords.js'
import { accountChange, type Identity, type SignedIn } from './port.js'

/** Makes and checks password hashes. */
export interface PasswordHasher {
  hash(password: string): Promise<string>
  verify(hash: string, password: string): Promise<boolean>
}

export interface LocalIdentityOptions {
  readonly storage: Storage
  /** Signs the tokens; at least 32 characters. */
  readonly secret: string
  /** argon2id by default. */
  readonly hasher?: PasswordHasher
  /** Life of an access token in seconds; 15 minutes by default. */
  readonly tokenLife?: number
  /** Life of a session without use in seconds; 30 days by default. */
  readonly sessionLife?: number
}

interface AccessClaims {
  readonly sub: string
  readonly tid: string
  readonly sid: string
  /** Seconds since 1970. */
  readonly exp: number
}
interface RefreshClaims extends AccessClaims {
  /** The session's generation when the token was made. */
  readonly gen: number
}

const ISSUER = 'workflow-api'

/**
 * Sign-in against the users table: argon2id hashes, short access tokens, refresh tokens that can
 * be exchanged once. A refresh token seen again means that somebody copied it, so it ends the
 * session and with it every token that descends from the sign-in.
 */
export async function openLocalIdentity(options: LocalIdentityOptions): Promise<Identity> {
  const { storage, secret } = options
  const tokenLife = options.tokenLife ?? 15 * 60
  const sessionLife = options.sessionLife ?? 30 * 24 * 60 * 60
  const hasher = options.hasher ?? (await argon2id())
  // What a password is held against when the email is unknown, so that both take as long.
  const nobody = await hasher.hash(uuid())

  const decode = createDecoder()
  const signAccess = signer('access', tokenLife)
  const signRefresh = signer('refresh', sessionLife)
  const verifyAccess = remembering(verifier<AccessClaims>('access'))
  const verifyRefresh = verifier<RefreshClaims>('refresh')

  function claimsOf(token: string): AccessClaims | null {
    try {
      return decode(token)
    } catch {
      return null
    }
  }

  function signer(audience: string, life: number) {
    return createSigner({
      key: secret,
      algorithm: 'HS256',
      iss: ISSUER,
      aud: audience,
      expiresIn: life * 1000
    })
  }

  function verifier<Claims>(audience: string) {
    const verify = createVerifier({
      key: secret,
      algorithms: ['HS256'],
      allowedIss: ISSUER,
      allowedAud: audience,
      // What a token does not say is not checked, unless it has to say it.
      requiredClaims: ['iss', 'aud', 'sub', 'exp']
    })
    return (token: string): Claims | null => {
      try {
        return verify(token)
      } catch {
        return null
      }
    }
  }

  function issue(session: Readonly<Session>): SignedIn {
    const claims = { sub: session.user_id, tid: session.tenant_id, sid: session.id }
    return {
      userId: session.user_id,
      tokens: {
        token: signAccess(claims),
        refresh_token: signRefresh({ ...claims, gen: session.generation }),
        expires_in: tokenLife
      }
    }
  }

  function expiry(): string {
    return new Date(Date.now() + sessionLife * 1000).toISOString()
  }

  /** @throws StorageError `stale` or `not_found` where the user changed since it was read. */
  async function startSession(user: Readonly<User>): Promise<SignedIn> {
    const row = { id: uuid(), user_id: user.id, generation: 0, expires_at: expiry() }
    const [, session] = await storage.commit({
      tenant: user.tenant_id as TenantId,
      changes: [
        // A password that was changed while it was checked signs nobody in any more.
        { op: 'check', resource: users, key: user.id, expect: user.version },
        { op: 'insert', resource: sessions, row }
      ]
    })
    return issue(session)
  }

  async function signIn(email: string, password: string): Promise<SignedIn | null> {
    const from = { resource: users, tenant: ACROSS_TENANTS } as const
    const { rows } = await storage.list(from, { filter: { email }, limit: 1 })
    const [user] = rows
    const right = await hasher.verify(user?.password_hash ?? nobody, password)
    if (!user?.password_hash || !right) return null
    try {
      return await startSession(user)
    } catch (error) {
      if (isStorageError(error, 'stale', 'not_found')) return signIn(email, password)
      throw error
    }
  }

  async function endSession(tenant: TenantId, key: string): Promise<void> {
    try {
      await storage.commit({ tenant, changes: [{ op: 'delete', resource: sessions, key }] })
    } catch (error) {
      if (!isStorageError(error, 'not_found')) throw error
    }
  }

  return withNormalPasswords({
    kind: 'local',

    verify(token) {
      return verifyAccess(token)?.sub ?? null
    },

    sessionOf(token) {
      const claims = claimsOf(token)
      return claims && { id: claims.sid, since: instantOf(claims.sid) }
    },

    signIn,

    async checkPassword({ password_hash }, password) {
      return password_hash !== null && hasher.verify(password_hash, password)
    },

    async refresh(refreshToken) {
      const claims = verifyRefresh(refreshToken)
      if (!claims) return null
      const tenant = claims.tid as TenantId
      const session = await storage.get({ resource: sessions, tenant }, claims.sid)
      if (!session) return null
      try {
        if (session.generation !== claims.gen) throw new StorageError('stale')
        const set = { generation: session.generation + 1, expires_at: expiry() }
        const [renewed] = await storage.commit({
          tenant,
          changes: [
            { op: 'update', resource: sessions, key: session.id, expect: session.version, set }
          ]
        })
        return issue(renewed)
      } catch (error) {
        // Used before, or at the same moment by somebody else: which of the two is the thief
        // cannot be told.
        if (isStorageError(error, 'stale')) await endSession(tenant, session.id)
        else if (!isStorageError(error, 'not_found')) throw error
        return null
      }
    },

    async signOut(token) {
      const claims = verifyAccess(token)
      if (claims) await endSession(claims.tid as TenantId, claims.sid)
    },

    async createAccount({ password }) {
      return accountChange({ columns: { password_hash: await hasher.hash(password) } })
    },

    async updateAccount(_user, { password }) {
      return password === undefined
        ? accountChange({})
        : accountChange({ columns: { password_hash: await hasher.hash(password) } })
    },

    async deleteAccount() {
      return accountChange({})
    }
  })
}

/** Valid tokens that are remembered; the least recently used are verified again. */
const MOST_TOKENS = 10_000

/**
 * Remembers the claims of valid tokens until they expire, under their signatures: hashing a whole
 * token for each request, as fast-jwt's own cache does, too, costs half of what is saved.
 */
function remembering(verify: (token: string) => AccessClaims | null) {
  const known = new LRUCache<string, { readonly token: string; readonly claims: AccessClaims }>({
    max: MOST_TOKENS
  })
  return (token: string): AccessClaims | null => {
    const signature = token.slice(token.lastIndexOf('.') + 1)
    const remembered = known.get(signature)
    if (remembered?.token === token && Date.now() < remembered.claims.exp * 1000)
      return remembered.claims
    const claims = verify(token)
    if (claims) known.set(signature, { token, claims })
    return claims
  }
}

/** OWASP's first choice for argon2id: 19 MiB of memory, two passes, one lane. */
async function argon2id(): Promise<PasswordHasher> {
  const { hash, verify } = await import('@node-rs/argon2')
  const cost = { memoryCost: 19_456, timeCost: 2, parallelism: 1 }
  return { hash: (password) => hash(password, cost), verify }
}
