import { isStorageError, StorageError } from '../adapters/storage/errors.js'
import type { Storage, Stored } from '../adapters/storage/port.js'
import { SOON_DAYS, secrets } from '../schemas/secrets.js'
import { auditEntry } from './audit-entry.js'
import { DAY_MS } from './durations.js'
import type { Keyring } from './encryption.js'
import type { Origin } from './store.js'

/** A secret that is there and whose value nobody gets any more. */
export class SecretExpired extends Error {
  override readonly name = 'SecretExpired'
}

/**
 * The value of a secret of the origin's tenant, for services of this process: there is no other way
 * to one. That it was read is in the audit log before anybody has it.
 *
 * @throws StorageError `not_found`, SecretExpired, or DecryptionError where no configured key opens it.
 */
export type ReadSecret = (origin: Origin, name: string) => Promise<string>

/** How often a read starts again because the secret was replaced under it. */
const MOST_TRIES = 5

export function createSecretReader(storage: Storage, keyring: Keyring): ReadSecret {
  async function read(origin: Origin, name: string, tries: number): Promise<string> {
    const { tenant } = origin
    const row = await storage.get({ resource: secrets, tenant }, name)
    if (!row) throw new StorageError('not_found', { resource: secrets.name, key: name })
    if (isExpired(row)) throw new SecretExpired(`The secret ${name} expired at ${row.expires_at}.`)
    const value = keyring.open(row, secretContext(row))
    try {
      await leaveEntry(storage, origin, row)
    } catch (error) {
      const replaced = isStorageError(error, 'stale', 'not_found')
      if (!replaced || tries === 1) throw error
      return read(origin, name, tries - 1)
    }
    return value
  }
  return (origin, name) => read(origin, name, MOST_TRIES)
}

/** Fails where the row is no more what was read, so that the entry is about this value. */
async function leaveEntry(storage: Storage, origin: Origin, row: Stored<typeof secrets>) {
  const at = new Date()
  await storage.commit({
    tenant: origin.tenant,
    at,
    changes: [
      { op: 'check', resource: secrets, key: row.name, expect: row.version },
      auditEntry(origin, at, 'read', secrets, row.name)
    ]
  })
}

/** What a value is bound to: it opens for this secret of this tenant and for no other. */
export function secretContext(row: Pick<Stored<typeof secrets>, 'tenant_id' | 'name'>): string[] {
  return [row.tenant_id, row.name]
}

export function isExpired({ expires_at }: Stored<typeof secrets>): boolean {
  return expires_at !== null && Date.parse(expires_at) <= Date.now()
}

/** Whether it is near its end, and not past it. */
export function expiresSoon(row: Stored<typeof secrets>): boolean {
  const { expires_at } = row
  if (expires_at === null || isExpired(row)) return false
  return Date.parse(expires_at) <= Date.now() + SOON_DAYS * DAY_MS
}
