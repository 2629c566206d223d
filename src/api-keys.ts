import {
  ACROSS_TENANTS,
  type Storage,
  type Stored,
  type TenantId
} from '../adapters/storage/port.js'
import { apiKeys } from '../schemas/api-keys.js'
import { includesRole } from '../schemas/resource.js'
import { hashOf, isApiKeyText } from './api-key-text.js'
import type { Principal, Principals } from './principals.js'
import { createRecentReads } from './recent-reads.js'

export type ApiKeyRow = Stored<typeof apiKeys>

/**
 * Callers that are programs: the principal of a key has the key's id and tenant, and the key's role or
 * that of its owner, whichever is less.
 */
export interface ApiKeys {
  /**
   * Null for a key that is unknown, revoked or over, or whose owner is gone. What others change is
   * seen within a minute.
   */
  verify(text: string): Promise<Principal | null>
  /** Makes a change of this process show at once. */
  forget(row: Pick<ApiKeyRow, 'hash' | 'previous_hash'>): void
  /** Waits for what is still being written. */
  close(): Promise<void>
}

/** What is remembered of a key. */
interface Known {
  readonly row: ApiKeyRow
  /** The version at which the row was last seen, and when its use was last written. */
  version: number
  usedAt: number
}

/** The least time between two writes of `last_used_at`. */
const USE_MS = 60_000

/**
 * @param now milliseconds since 1970, by which keys end; the clock's by default.
 * @param measured milliseconds of a clock that nobody puts back, by which what was read is forgotten;
 * `performance.now` by default.
 */
export function createApiKeys(
  storage: Storage,
  principals: Principals,
  now: () => number = Date.now,
  measured?: () => number
): ApiKeys {
  const writes = new Set<Promise<unknown>>()

  async function find(
    field: 'hash' | 'previous_hash',
    hash: string
  ): Promise<ApiKeyRow | undefined> {
    const from = { resource: apiKeys, tenant: ACROSS_TENANTS } as const
    const { rows } = await storage.list(from, { filter: { [field]: hash }, limit: 1 })
    return rows[0]
  }

  async function read(hash: string): Promise<Known | null> {
    const row = (await find('hash', hash)) ?? (await find('previous_hash', hash))
    if (!row) return null
    const usedAt = row.last_used_at === null ? 0 : Date.parse(row.last_used_at)
    return { row, version: row.version, usedAt }
  }

  const known = createRecentReads(read, measured)

  /**
   * Writes that the key is in use, for people to see: the request does not wait, and does not care
   * whether it works. Only at the version that was seen, so that of many servers one writes.
   */
  function noteUse(used: Known): void {
    const time = now()
    if (time - used.usedAt < USE_MS) return
    used.usedAt = time
    const { id: key, tenant_id } = used.row
    const set = { last_used_at: new Date(time).toISOString() }
    const write = storage
      .commit({
        tenant: tenant_id as TenantId,
        changes: [{ op: 'update', resource: apiKeys, key, expect: used.version, set }]
      })
      .then(
        ([row]) => {
          used.version = row.version
        },
        () => {}
      )
      .finally(() => writes.delete(write))
    writes.add(write)
  }

  return {
    async verify(text) {
      if (!isApiKeyText(text)) return null
      const hash = hashOf(text)
      const found = await known.get(hash)
      if (!found) return null
      const { row } = found
      const end = hash === row.hash ? row.expires_at : row.previous_expires_at
      if (end !== null && Date.parse(end) <= now()) return null
      // Whoever made it still knows it: nobody keeps through a key what they have lost.
      const owner = await principals.get(row.owner_id)
      if (!owner) return null
      noteUse(found)
      const role = includesRole(owner.role, row.role) ? row.role : owner.role
      return { ...owner, id: row.id, role }
    },

    forget({ hash, previous_hash }) {
      known.forget(hash)
      if (previous_hash !== null) known.forget(previous_hash)
    },

    async close() {
      await Promise.all(writes)
    }
  }
}
