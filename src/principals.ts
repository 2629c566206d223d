import type { TokenSession } from '../adapters/identity/port.js'
import { ACROSS_TENANTS, type Storage, type TenantId } from '../adapters/storage/port.js'
import type { Role } from '../schemas/resource.js'
import { tenants } from '../schemas/tenants.js'
import { users } from '../schemas/users.js'
import { createRecentReads, type RecentReads } from './recent-reads.js'

/** Who makes a request, as far as the users table knows. */
export interface Principal {
  readonly id: string
  /** The user whose power it is: the same, but for an API key. */
  readonly owner: string
  readonly role: Role
  readonly tenant: TenantId
  readonly tenantName: string
  /** Where some sessions were ended: those that began since, and the one kept, go on. */
  readonly sessions?: { readonly from: number; readonly kept: string | null }
}

/** And not an API key. */
export function isUser({ id, owner }: Principal): boolean {
  return id === owner
}

/** By the ids of users; null where one is gone. */
export type Principals = RecentReads<Principal>

/** Whether a session of the principal was ended, as changing the password ends them. */
export function isEnded({ sessions }: Principal, session: TokenSession | null): boolean {
  if (!sessions) return false
  return !session || (session.since <= sessions.from && session.id !== sessions.kept)
}

/** @param now milliseconds of a clock that nobody puts back, which is `performance.now` by default. */
export function createPrincipals(storage: Storage, now?: () => number): Principals {
  async function read(userId: string): Promise<Principal | null> {
    const user = await storage.get({ resource: users, tenant: ACROSS_TENANTS }, userId)
    if (!user) return null
    const tenant = user.tenant_id as TenantId
    const row = await storage.get({ resource: tenants, tenant }, tenant)
    if (!row) return null
    const { id, role, sessions_from: from, session_kept: kept } = user
    const principal = { id, owner: id, role, tenant, tenantName: row.name }
    return from === null ? principal : { ...principal, sessions: { from: Date.parse(from), kept } }
  }

  return createRecentReads(read, now)
}
