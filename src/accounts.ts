import { LRUCache } from 'lru-cache'
import type { Awaitable } from '../adapters/awaitable.js'
import type { TokenSession } from '../adapters/identity/port.js'
import { ACROSS_TENANTS, type Storage, type TenantId } from '../adapters/storage/port.js'
import type { Role } from '../schemas/resource.js'
import { tenants } from '../schemas/tenants.js'
import { users } from '../schemas/users.js'

/** Who makes a request, as far as the users table knows. */
export interface Account {
  readonly id: string
  /** The user whose power it is: the same, but for an API key. */
  readonly owner: string
  readonly role: Role
  readonly tenant: TenantId
  readonly tenantName: string
  /** Where some sessions were ended: those that began since, and the one kept, go on. */
  readonly sessions?: { readonly from: number; readonly kept: string | null }
}

export interface Accounts {
  /** Null where the user is gone. At most a minute old. */
  get(userId: string): Awaitable<Account | null>
  /** Makes a change of this process show at once. */
  forget(userId: string): void
}

/** Whether a session of the account was ended, as changing the password ends them. */
export function isEnded({ sessions }: Account, session: TokenSession | null): boolean {
  if (!sessions) return false
  return !session || (session.since <= sessions.from && session.id !== sessions.kept)
}

/** How long a change made through another process may go unseen. */
const TTL_MS = 60_000

/** @param now milliseconds of a clock that nobody puts back, which is `performance.now` by default. */
export function createAccounts(
  storage: Storage,
  now: () => number = () => performance.now()
): Accounts {
  const cache = new LRUCache<string, Account | Promise<Account | null>>({
    max: 10_000,
    ttl: TTL_MS,
    ttlResolution: 0,
    perf: { now }
  })

  async function read(userId: string): Promise<Account | null> {
    const user = await storage.get({ resource: users, tenant: ACROSS_TENANTS }, userId)
    if (!user) return null
    const tenant = user.tenant_id as TenantId
    const row = await storage.get({ resource: tenants, tenant }, tenant)
    if (!row) return null
    const { id, role, sessions_from: from, session_kept: kept } = user
    const account = { id, owner: id, role, tenant, tenantName: row.name }
    return from === null ? account : { ...account, sessions: { from: Date.parse(from), kept } }
  }

  return {
    get(userId) {
      const known = cache.get(userId)
      if (known) return known
      const reading = read(userId)
      cache.set(userId, reading)
      // Unless it was forgotten meanwhile, and no longer than a minute from when the read began.
      const settle = (account: Account | null) => {
        if (cache.peek(userId) !== reading) return
        if (account) cache.set(userId, account, { noUpdateTTL: true })
        else cache.delete(userId)
      }
      reading.then(settle, () => settle(null))
      return reading
    },

    forget(userId) {
      cache.delete(userId)
    }
  }
}
