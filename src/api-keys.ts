import { LRUCache } from 'lru-cache'
import {
  ACROSS_TENANTS,
  type Storage,
  type Stored,
  type TenantId
} from '../adapters/storage/port.js'
import { apiKeys } from '../schemas/api-keys.js'
import { includesRole } from '../schemas/resource.js'
import type { Account, Accounts } from './accounts.js'
import { hashOf, isApiKeyText } from './api-key-text.js'

export type ApiKeyRow = Stored<typeof apiKeys>

/**
 * Callers that are programs: the account of a key has the key's id and tenant, and the key's role or
 * that of its owner, whichever is less.
 */
export interface ApiKeys {
  /**
   * Null for a key that is unknown, revoked or over, or whose owner is gone. What others change is
   * seen within a minute.
   */
  verify(text: string): Promise<Account | null>
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

/** How long a change made through another process may go unseen. */
const TTL_MS = 60_000
/** The least time between two writes of `last_used_at`. */
const USE_MS = 60_000

/**
 * @param now milliseconds since 1970, by which keys end; the clock's by default.
 * @param measured milliseconds of a clock that nobody puts back, by which what was read is forgotten;
 * `performance.now` by default.
 */
export function createApiKeys(
  storage: Storage,
  accounts: Accounts,
  now: () => number = Date.now,
  measured: () => number = () => performance.now()
): ApiKeys {
  const cache = new LRUCache<string, Promise<Known | null>>({
    max: 10_000,
    ttl: TTL_MS,
    ttlResolution: 0,
    perf: { now: measured }
  })
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

  function recall(hash: string): Promise<Known | null> {
    const known = cache.get(hash)
    if (known) return known
    const reading = read(hash)
    cache.set(hash, reading)
    const forgetUnknown = (found?: Known | null) => {
      if (!found && cache.peek(hash) === reading) cache.delete(hash)
    }
    reading.then(forgetUnknown, () => forgetUnknown())
    return reading
  }

  /**
   * Writes that the key is in use, for people to see: the request does not wait, and does not care
   * whether it works. Only at the version that was seen, so that of many servers one writes.
   */
  function noteUse(known: Known): void {
    const time = now()
    if (time - known.usedAt < USE_MS) return
    known.usedAt = time
    const { id: key, tenant_id } = known.row
    const set = { last_used_at: new Date(time).toISOString() }
    const write = storage
      .commit({
        tenant: tenant_id as TenantId,
        changes: [{ op: 'update', resource: apiKeys, key, expect: known.version, set }]
      })
      .then(
        ([row]) => {
          known.version = row.version
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
      const known = await recall(hash)
      if (!known) return null
      const { row } = known
      const end = hash === row.hash ? row.expires_at : row.previous_expires_at
      if (end !== null && Date.parse(end) <= now()) return null
      // Whoever made it still knows it: nobody keeps through a key what they have lost.
      const owner = await accounts.get(row.owner_id)
      if (!owner) return null
      noteUse(known)
      const role = includesRole(owner.role, row.role) ? row.role : owner.role
      return { ...owner, id: row.id, role }
    },

    forget({ hash, previous_hash }) {
      cache.delete(hash)
      if (previous_hash !== null) cache.delete(previous_hash)
    },

    async close() {
      await Promise.all(writes)
    }
  }
}
