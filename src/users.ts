import type { Static } from '@sinclair/typebox'
import type { AccountChange, Identity } from '../adapters/identity/port.js'
import { StorageError } from '../adapters/storage/errors.js'
import {
  ACROSS_TENANTS,
  type Change,
  type Check,
  type NewRow,
  type Storage,
  type Stored,
  type TenantId,
  type Values
} from '../adapters/storage/port.js'
import { passInstant } from '../adapters/uuid.js'
import { audit } from '../schemas/audit.js'
import type { Registration } from '../schemas/auth.js'
import { tenants } from '../schemas/tenants.js'
import { type User, users } from '../schemas/users.js'
import { createEmailLimit } from './email-limit.js'
import type { Attempt } from './idempotency.js'
import { assertHardToGuess } from './passwords.js'
import type { Principal, Principals } from './principals.js'
import { ApiError } from './problems.js'
import { type ChangeOptions, createStore, newKey, type Store, untilUnchanged } from './store.js'

/** How often another admin is looked for while they go, too. */
const MOST_TRIES = 5

export type UserRow = Stored<typeof users>
export type UserChange = Partial<Pick<User, 'email' | 'name' | 'role'>> & { password?: string }

export interface UserOptions extends ChangeOptions {
  /** The access token of somebody who changes the own row: its session goes on. */
  readonly ownToken?: string
  /** The row whose password the caller gave: another password by now refuses the change. */
  readonly confirmed?: UserRow
}

/** Users, each of which is a row and an account that signs in: both change, or neither. */
export interface Users {
  register(
    registration: Static<typeof Registration>,
    attempt: Attempt,
    requestId: string
  ): Promise<UserRow>
  /**
   * The id of a user to be made. Where another service keeps the accounts, a repeat goes on with the
   * one that an earlier try left.
   */
  newId(store: Store, attempt: Attempt): Promise<string>
  create(
    store: Store,
    row: NewRow<typeof users>,
    password: string,
    along: readonly Change[]
  ): Promise<UserRow>
  /** A new password ends the user's sessions. */
  update(store: Store, id: string, change: UserChange, options: UserOptions): Promise<UserRow>
  remove(store: Store, id: string, options: ChangeOptions): Promise<void>
}

export function createUsers(storage: Storage, identity: Identity, principals: Principals): Users {
  const emails = createEmailLimit()

  function endedSessions(keptToken: string | undefined): Values<typeof users> {
    const kept = keptToken === undefined ? null : identity.sessionOf(keptToken)
    const from = new Date(passInstant())
    return { sessions_from: from.toISOString(), session_kept: kept?.id ?? null }
  }

  async function updateOnce(
    store: Store,
    id: string,
    { password, ...change }: UserChange,
    { ownToken, confirmed, ...options }: UserOptions
  ): Promise<UserRow> {
    if (password) await assertHardToGuess(password)
    // Changes nothing yet, but refuses a version that is not the row's, before the account changes.
    const user = await store.need(users, id, options.ifMatch)
    if (confirmed && confirmed.sessions_from !== user.sessions_from)
      throw new ApiError('wrong_password')
    // Two that change the email at once must not leave one in the row and one in the account,
    // and whoever was let through as an admin, or by a password, must still be that.
    const isDecided = change.email || change.role || confirmed
    const ifMatch = isDecided ? new Set([user.version]) : options.ifMatch
    const demoted = change.role !== undefined && change.role !== 'admin'
    return keepingAnAdmin(store, demoted ? user : null, async (checks) => {
      const account = await identity.updateAccount(user, {
        ...(change.email ? { email: change.email.toLowerCase() } : {}),
        ...(password ? { password } : {})
      })
      const ended = password ? endedSessions(ownToken) : {}
      const set: Values<typeof users> = { ...change, ...account.columns, ...ended }
      const elsewhere = password ? ['password'] : []
      return together(account, () =>
        store.update(users, id, set, { ...options, ifMatch, along: checks, elsewhere })
      )
    })
  }

  return {
    register({ tenant_name, name, email, password }, attempt, requestId) {
      // A repeat finds the record in the tenant that the first try made.
      const tenant = attempt.uuid('tenant', 'key') as TenantId
      const id = attempt.uuid('user', 'request')
      const store = createStore(storage, { tenant, actor: id, requestId })
      return attempt.create({
        tenant,
        resource: users,
        insteadOfRepeat: 'sign in',
        make: () => ({ id, email, name, role: 'admin' as const }),
        async store(row, along) {
          await assertHardToGuess(password)
          const account = await identity.createAccount({ id, email: email.toLowerCase(), password })
          const [, user] = await together(account, () =>
            store.commit(
              [
                { op: 'insert', resource: tenants, row: { id: tenant, name: tenant_name } },
                { op: 'insert', resource: users, row: { ...row, ...account.columns } },
                ...along
              ],
              { elsewhere: ['password'] }
            )
          )
          return user as UserRow
        }
      })
    },

    async newId(store, attempt) {
      if (!identity.service) return newKey(users)
      const id = attempt.uuid('user', 'request')
      return attempt.isRepeatable && (await wasUsed(store, id)) ? newKey(users) : id
    },

    create: (store, row, password, along) =>
      emails.guard(store.tenant, async () => {
        const email = row.email.toLowerCase()
        await assertHardToGuess(password)
        const account = await identity.createAccount({ id: row.id, email, password })
        return together(account, () =>
          store.insert(users, { ...row, ...account.columns }, { along, elsewhere: ['password'] })
        )
      }),

    update(store, id, change, options) {
      const update = () => changeUser(id, options, () => updateOnce(store, id, change, options))
      return change.email
        ? emails.guard(options.confirmed ? `own ${store.tenant}` : store.tenant, update)
        : update()
    },

    remove: (store, id, options) =>
      changeUser(id, options, async () => {
        const user = await store.need(users, id, options.ifMatch)
        const account = await identity.deleteAccount(user)
        const ifMatch = new Set([user.version])
        await together(account, () =>
          keepingAnAdmin(store, user, (checks) =>
            store.remove(users, id, { ...options, ifMatch, along: checks })
          )
        )
      })
  }

  /**
   * Whether the same request made a user so long ago that its record is over. What that user had,
   * such as API keys, is nobody else's even where the user is gone.
   */
  async function wasUsed(store: Store, id: string): Promise<boolean> {
    const { rows } = await store.list(audit, { filter: { resource_id: id }, limit: 1 })
    const from = { resource: users, tenant: ACROSS_TENANTS } as const
    return rows.length > 0 || (await storage.get(from, id)) !== null
  }

  /** As often as others change the user meanwhile. */
  function changeUser<T>(id: string, options: ChangeOptions, change: () => Promise<T>): Promise<T> {
    // The row may have changed even where that failed.
    const changeOnce = () => change().finally(() => principals.forget(id))
    return untilUnchanged(users, id, options, changeOnce)
  }
}

/** What a user sees of itself and of others: with the name of the tenant, which is another row. */
export function withTenantName(user: UserRow, { principal }: { readonly principal: Principal }) {
  return { ...user, tenant_name: principal.tenantName }
}

/** Commits the row between the two halves of the account's change. */
export async function together<T>(account: AccountChange, commit: () => Promise<T>): Promise<T> {
  let row: T
  try {
    row = await commit()
  } catch (error) {
    await account.undo(error)
    throw error
  }
  await account.finish()
  return row
}

/**
 * Commits only if another admin is still there when it is stored, so that no tenant is left
 * without one, not even by two admins who remove each other at the same moment.
 */
async function keepingAnAdmin<T>(
  store: Store,
  leaving: UserRow | null,
  commit: (checks: readonly Check<typeof users>[]) => Promise<T>
): Promise<T> {
  if (leaving?.role !== 'admin') return commit([])
  for (let tries = 0; tries < MOST_TRIES; tries++) {
    const { rows } = await store.list(users, { filter: { role: 'admin' }, limit: 2 })
    const other = rows.find(({ id }) => id !== leaving.id)
    if (!other) throw new ApiError('last_admin')
    try {
      return await commit([{ op: 'check', resource: users, key: other.id, expect: other.version }])
    } catch (error) {
      if (!(error instanceof StorageError && error.key === other.id)) throw error
    }
  }
  throw new ApiError('concurrent_change')
}
