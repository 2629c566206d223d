import type { User as AuthUser, Session } from '@supabase/supabase-js'
import { type User, users } from '../../schemas/users.js'
import { isStorageError, StorageError } from '../storage/errors.js'
import { ACROSS_TENANTS, type Storage } from '../storage/port.js'
import { withNormalPasswords } from './normal-passwords.js'
import {
  type AccountCredentials,
  AccountError,
  accountChange,
  type Identity,
  type SignedIn
} from './port.js'
import { asUnavailable, connectAuthServer, isRefusal, isUnclear } from './supabase-auth.js'
import { claimsOf, createTokenVerifier } from './supabase-tokens.js'

export interface SupabaseIdentityOptions {
  /** The project's address, `https://….supabase.co`. */
  readonly url: string
  /** The service-role key or a secret key (`sb_secret_…`). */
  readonly key: string
  /** Where the users' rows are. */
  readonly storage: Storage
  /** The legacy JWT secret, of projects that sign with HS256: saves asking the Auth server. */
  readonly jwtSecret?: string | undefined
  /** Who makes the tokens, where it is not `<url>/auth/v1`. */
  readonly issuer?: string | undefined
  /** How long a request may take, in milliseconds; 10000 by default. */
  readonly timeoutMs?: number
  /**
   * How long an account without a row may be one that is just being made, in milliseconds; a
   * minute by default, which is more than all timeouts of making one together.
   */
  readonly creationMs?: number
  /** What an operator should know; a process warning by default. */
  readonly onWarning?: (message: string) => void
}

/**
 * Marks the accounts that this API made. A project may have others, of its other apps: nobody may
 * take those over by registering with their email.
 */
const MARK = 'workflow_api'

/** The longest password that bcrypt hashes whole. Auth says so in a different way in each release. */
const MOST_PASSWORD_BYTES = 72

/** Tries of the one request that may be repeated without a thought. */
const DELETE_TRIES = 3

/**
 * Supabase Auth. An account is made and changed before its row and deleted after it, so that a row
 * never lacks its account; an account that is left without a row signs nobody in, and gives way
 * when its email is used again.
 */
export async function openSupabaseIdentity(options: SupabaseIdentityOptions): Promise<Identity> {
  const { storage, timeoutMs = 10_000, creationMs = 60_000 } = options
  const warn = options.onWarning ?? ((message: string) => process.emitWarning(message))
  const auth = connectAuthServer(options.url, options.key, timeoutMs)

  const verify = createTokenVerifier({
    keysUrl: `${auth.url}/.well-known/jwks.json`,
    headers: auth.headers,
    issuer: options.issuer ?? auth.url,
    jwtSecret: options.jwtSecret,
    timeoutMs,
    askServer: whoseToken
  })

  async function whoseToken(token: string): Promise<string | null> {
    try {
      const { user } = await auth.ask((client) => client.getUser(token))
      return user?.id ?? null
    } catch (error) {
      if (isRefusal(error, ...tokenRefusals)) return null
      throw asUnavailable(error)
    }
  }

  async function signIn(email: string, password: string): Promise<SignedIn | null> {
    try {
      const { session } = await auth.ask((client) => client.signInWithPassword({ email, password }))
      return signedIn(session)
    } catch (error) {
      if (isRefusal(error, ...signInRefusals)) return null
      throw asUnavailable(error)
    }
  }

  async function signOut(token: string): Promise<void> {
    try {
      await auth.ask((client) => client.admin.signOut(token, 'local'))
    } catch (error) {
      // It is over already, or the account is.
      if (!isRefusal(error, ...tokenRefusals)) throw asUnavailable(error)
    }
  }

  function rowOf(id: string) {
    return storage.get({ resource: users, tenant: ACROSS_TENANTS }, id)
  }

  async function rowWith(email: string) {
    const from = { resource: users, tenant: ACROSS_TENANTS } as const
    const { rows } = await storage.list(from, { filter: { email }, limit: 1 })
    return rows[0]
  }

  async function insert({ id, email, password }: AccountCredentials): Promise<void> {
    const app_metadata = { [MARK]: true }
    // Confirmed: no letter is sent, and the email is as good as whoever entered it says.
    const attributes = { id, email, password, email_confirm: true, app_metadata }
    await auth.ask((client) => client.admin.createUser(attributes))
  }

  async function create(account: AccountCredentials): Promise<void> {
    try {
      await insert(account).catch(async (error) => {
        if (!isRefusal(error, 'email_exists')) throw error
        if (await isLeft(account)) return renew(account)
        await clear(account)
        await insert(account)
      })
    } catch (error) {
      if (isUnclear(error)) {
        // Auth says no more than this where another try made it at the same moment.
        if (await isLeft(account).catch(() => false)) return
        // It may have been made, or may yet be.
        await discard(account.id)
        // Nor does it where somebody else took the email at the same moment.
        await clear(account).catch((why) => {
          if (why instanceof AccountError) throw why
        })
      }
      throw accountProblem(error)
    }
  }

  /** Where the id is a fixed one, as the demo's is, the password may be another by now. */
  async function renew({ id, password }: AccountCredentials): Promise<void> {
    await auth.ask((client) => client.admin.updateUserById(id, { password, email_confirm: true }))
  }

  /** Whether another try of the same request has made the account, and not the row. */
  async function isLeft({ id, email }: AccountCredentials): Promise<boolean> {
    const holder = await auth.findUser(email)
    return holder?.id === id && isOurs(holder) && (await rowOf(id)) === null
  }

  /**
   * Frees the email that a user wants from an account without a row.
   * @throws AccountError where it is somebody's.
   */
  async function clear({ id, email }: Omit<AccountCredentials, 'password'>): Promise<void> {
    const row = await rowWith(email)
    if (row && row.id !== id) throw taken()
    const holder = await auth.findUser(email)
    if (!holder || holder.id === id) return
    if (!isOurs(holder) || (await rowOf(holder.id))) throw taken()
    if (Date.now() - Date.parse(holder.created_at) < creationMs)
      throw new AccountError(
        'email_busy',
        'A user with this email is just being made. Try again in a minute.'
      )
    await remove(holder.id)
  }

  async function remove(id: string): Promise<void> {
    for (let tries = 1; ; tries++)
      try {
        await auth.ask((client) => client.admin.deleteUser(id))
        return
      } catch (error) {
        if (isRefusal(error, 'user_not_found')) return
        if (!isUnclear(error) || tries === DELETE_TRIES) throw error
      }
  }

  /** Deletes an account that has no row. What fails is told, and done when the email is used again. */
  async function discard(id: string): Promise<void> {
    try {
      if (!(await rowOf(id))) await remove(id)
    } catch (error) {
      const { message } = error as Error
      warn(
        `Supabase Auth may have the user ${id}, which has no row, until its email is used again: ${message}`
      )
    }
  }

  async function change(user: Readonly<User>, to: Partial<AccountCredentials>): Promise<void> {
    const { email, password } = to
    const attributes = {
      ...(email ? { email, email_confirm: true } : {}),
      ...(password ? { password } : {})
    }
    const update = () => auth.ask((client) => client.admin.updateUserById(user.id, attributes))
    try {
      await update().catch(async (error) => {
        if (isRefusal(error, 'user_not_found')) return revive(user, to)
        // What Auth answers where the email is taken, among other things.
        if (!email || !isRefusal(error, 'unexpected_failure', 'email_exists')) throw error
        await clear({ id: user.id, email })
        return update()
      })
    } catch (error) {
      if (isUnclear(error)) await restore(user.id, to, error)
      throw accountProblem(error)
    }
  }

  /** Makes the account of a row that lost it, once there is a password for it. */
  async function revive(
    user: Readonly<User>,
    { email, password }: Partial<AccountCredentials>
  ): Promise<void> {
    if (password) await create({ id: user.id, email: email ?? user.email, password })
  }

  /**
   * Gives an account the email of its row again.
   * @throws StorageError `outcome_unknown` where a password may have changed, which nobody knows
   * to change back, or where Auth does not answer.
   */
  async function restore(
    id: string,
    { email, password }: Partial<AccountCredentials>,
    why: unknown
  ) {
    try {
      const row = await rowOf(id)
      if (!row) await discard(id)
      else if (email && row.email !== email)
        await auth.ask((client) =>
          client.admin.updateUserById(id, { email: row.email, email_confirm: true })
        )
    } catch {
      throw new StorageError('outcome_unknown', { cause: why })
    }
    if (password) throw new StorageError('outcome_unknown', { cause: why })
  }

  return withNormalPasswords({
    kind: 'supabase',
    service: options.url,
    verify,

    sessionOf(token) {
      const claims = claimsOf(token)
      return claims && { id: String(claims.session_id), since: (claims.iat ?? 0) * 1000 }
    },

    signIn,

    async checkPassword({ id, email }, password) {
      const session = await signIn(email, password)
      if (session) await signOut(session.tokens.token)
      return session?.userId === id
    },

    async refresh(refreshToken) {
      try {
        const { session } = await auth.ask((client) =>
          client.refreshSession({ refresh_token: refreshToken })
        )
        return signedIn(session)
      } catch (error) {
        if (isRefusal(error, ...refreshRefusals)) return null
        throw asUnavailable(error)
      }
    },

    signOut,

    async createAccount(account) {
      checkLength(account)
      await create(account)
      return accountChange({
        // Where the commit may have been stored, the account must be there.
        undo: async (why) =>
          isStorageError(why, 'outcome_unknown') ? undefined : discard(account.id)
      })
    },

    async updateAccount(user, to) {
      if (!to.email && !to.password) return accountChange({})
      checkLength(to)
      await change(user, to)
      return accountChange({ undo: (why) => restore(user.id, to, why) })
    },

    async deleteAccount({ id }) {
      return accountChange({
        async finish() {
          try {
            await remove(id)
          } catch (error) {
            warn(
              `Supabase Auth still has the user ${id}, which was deleted: ${(error as Error).message}`
            )
            throw new StorageError('outcome_unknown', { cause: error })
          }
        },
        // Where the row is gone all the same, so must be the account.
        undo: async (why) => (isStorageError(why, 'outcome_unknown') ? discard(id) : undefined)
      })
    }
  })
}

const signInRefusals = [
  'invalid_credentials',
  'invalid_grant',
  'email_not_confirmed',
  'user_banned',
  'validation_failed'
]

const refreshRefusals = [
  'refresh_token_not_found',
  'refresh_token_already_used',
  'session_not_found',
  'session_expired',
  'user_banned',
  'invalid_grant',
  'validation_failed'
]

const tokenRefusals = [
  'bad_jwt',
  'session_not_found',
  'session_expired',
  'user_not_found',
  'user_banned'
]

function signedIn(session: Session | null): SignedIn | null {
  if (!session) return null
  const { access_token: token, refresh_token, expires_in, user } = session
  return { userId: user.id, tokens: { token, refresh_token, expires_in } }
}

function checkLength({ password = '' }: Partial<AccountCredentials>): void {
  if (Buffer.byteLength(password) > MOST_PASSWORD_BYTES)
    throw new AccountError(
      'password_refused',
      `A password may have ${MOST_PASSWORD_BYTES} bytes at most.`
    )
}

function taken(): AccountError {
  return new AccountError('email_taken', 'There already is a user with this email. Choose another.')
}

/** What an account cannot have, as the caller is told; anything else makes Auth unusable. */
function accountProblem(error: unknown): unknown {
  if (isRefusal(error, 'weak_password'))
    return new AccountError('password_refused', error.message, { cause: error })
  // Where two made it at once.
  if (isRefusal(error, 'email_exists')) return taken()
  if (isRefusal(error, 'validation_failed', 'email_address_invalid'))
    return /password/i.test(error.message)
      ? new AccountError('password_refused', error.message, { cause: error })
      : new AccountError('email_refused', error.message, { cause: error })
  return asUnavailable(error)
}

/** Accounts that were written into the tables of Auth by hand may have no metadata. */
function isOurs({ app_metadata }: AuthUser): boolean {
  return app_metadata?.[MARK] === true
}
