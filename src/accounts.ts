import { LRUCache } from 'lru-cache'
import { ACROSS_TENANTS, type Storage, type TenantId } from '../adapters/storage/port.js'
import type { Role } from '../schemas/resource.js'
import { tenants } from '../schemas/tenants.js'
import { users } from '../schemas/users.js'

/** Who makes a request, as far as the users table knows. */
export interface Account {
  readonly id: string
  readonly role: Role
  readonly tenant: TenantId
  readonly tenantName: string
}

export interface Accounts {
  /** Null where the user is gone. At most a minute old. */
  get(userId: string): Promise<Account | null>
  /** Makes a change of this process show at once. */
  forget(userId: string): void
}

/** How long a change made through another process may go unseen. */
const TTL_MS = 60_000

export function createAccounts(storage: Storage): Accounts {
  const cache = new LRUCache<string, Promise<Account | null>>({ max: 10_000, ttl: TTL_MS })

  async function read(userId: string): Promise<Account | null> {
    const user = await storage.get({ resource: users, tenant: ACROSS_TENANTS }, userId)
    if (!user) return null
    const tenant = user.tenant_id as TenantId
    const row = await storage.get({ resource: tenants, tenant }, tenant)
    return row && { id: user.id, role: user.role, tenant, tenantName: row.name }
  }

  return {
    get(userId) {
      const known = cache.get(userId)
      if (known) return known
      const reading = read(userId)
      cache.set(userId, reading)
      const forgetUnknown = (account?: Account | null) => {
        if (!account && cache.peek(userId) === reading) cache.delete(userId)
      }
      reading.then(forgetUnknown, () => forgetUnknown())
      return reading
    },

    forget(userId) {
      cache.delete(userId)
    }
  }
}
