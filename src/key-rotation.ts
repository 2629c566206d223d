import { isStorageError } from '../adapters/storage/errors.js'
import {
  ACROSS_TENANTS,
  type Storage,
  type Stored,
  type TenantId
} from '../adapters/storage/port.js'
import { secrets } from '../schemas/secrets.js'
import { tenants } from '../schemas/tenants.js'
import { allRows } from './all-rows.js'
import { bySystem } from './audit-entry.js'
import { DecryptionError, type Keyring } from './encryption.js'
import { secretContext } from './secret-values.js'
import { createStore } from './store.js'

type SecretRow = Stored<typeof secrets>

/** A secret that no configured key opens. */
export interface Unreadable {
  readonly tenant: string
  readonly name: string
  readonly keyId: string
}

export interface KeyReport {
  /** How many tenants there were at the start. */
  readonly allTenants: number
  /** Secrets that were looked at, and how many there were at the start. */
  secrets: number
  readonly allSecrets: number
  /** How many were under each key when they were looked at. */
  readonly byKey: Map<string, number>
  /** Secrets that were encrypted anew. */
  rotated: number
  /** Those that the last pass of a rotation still found to do: a server writes with an older key. */
  readonly stillWritten: number
  readonly unreadable: Unreadable[]
}

export interface WalkOptions {
  /** Called after each page of secrets and after each tenant. */
  readonly onProgress?: (report: Readonly<KeyReport>) => void
}

/** Rows at a time: those of SQLite share a transaction, and no server is kept from its own. */
const AT_ONCE = 8
/** The second sees what was written during the first, and the third that all is done. */
const MOST_PASSES = 3

/** Opens every secret, and changes none. */
export function checkSecrets(storage: Storage, keyring: Keyring, options: WalkOptions = {}) {
  return walk(storage, keyring, options, async () => false)
}

/**
 * Encrypts every secret under the first key that is not under it yet, each in a commit of its own
 * with its audit entry, while servers go on reading and writing. What was done stays done where it
 * is broken off, and the next run does the rest.
 *
 * What a server wrote with an older key behind its back is done in another pass. A server that
 * goes on doing so would never let it end: then the report tells.
 */
export async function rotateSecrets(
  storage: Storage,
  keyring: Keyring,
  options: WalkOptions = {}
): Promise<KeyReport> {
  let rotated = 0
  for (let pass = 1; ; pass++) {
    const report = await walk(storage, keyring, options, (row) => rotate(storage, keyring, row))
    rotated += report.rotated
    if (report.rotated === 0 || pass === MOST_PASSES)
      return { ...report, rotated, stillWritten: report.rotated }
  }
}

/** Whether the row was encrypted anew. Another change of it at the same moment comes first. */
async function rotate(storage: Storage, keyring: Keyring, row: SecretRow): Promise<boolean> {
  if (isCurrent(keyring, row)) return false
  const origin = { tenant: row.tenant_id as TenantId, ...bySystem }
  let changed = false
  try {
    await createStore(storage, origin).update(
      secrets,
      row.name,
      (now) => {
        changed = !isCurrent(keyring, now)
        return changed ? keyring.seal(open(keyring, now), secretContext(now)) : {}
      },
      { verb: 'rotate' }
    )
  } catch (error) {
    if (isStorageError(error, 'not_found')) return false
    throw error
  }
  return changed
}

async function walk(
  storage: Storage,
  keyring: Keyring,
  { onProgress }: WalkOptions,
  visit: (row: SecretRow) => Promise<boolean>
): Promise<KeyReport> {
  const report: KeyReport = {
    ...(await countAll(storage)),
    secrets: 0,
    byKey: new Map(),
    rotated: 0,
    stillWritten: 0,
    unreadable: []
  }

  async function look(row: SecretRow): Promise<void> {
    report.secrets++
    report.byKey.set(row.key_id, (report.byKey.get(row.key_id) ?? 0) + 1)
    try {
      open(keyring, row)
      if (await visit(row)) report.rotated++
    } catch (error) {
      if (!(error instanceof DecryptionError)) throw error
      report.unreadable.push({ tenant: row.tenant_id, name: row.name, keyId: row.key_id })
    }
  }

  for await (const { id } of allRows(storage, { resource: tenants, tenant: ACROSS_TENANTS })) {
    let batch: SecretRow[] = []
    const from = { resource: secrets, tenant: id as TenantId }
    for await (const row of allRows(storage, from)) {
      batch.push(row)
      if (batch.length < AT_ONCE) continue
      await Promise.all(batch.map(look))
      batch = []
      onProgress?.(report)
    }
    await Promise.all(batch.map(look))
    onProgress?.(report)
  }
  return report
}

function open(keyring: Keyring, row: SecretRow): string {
  return keyring.open(row, secretContext(row))
}

function isCurrent(keyring: Keyring, { key_id }: SecretRow): boolean {
  return key_id === keyring.ids[0]
}

async function countAll(storage: Storage) {
  let allTenants = 0
  let allSecrets = 0
  for await (const { id } of allRows(storage, { resource: tenants, tenant: ACROSS_TENANTS })) {
    const from = { resource: secrets, tenant: id as TenantId } as const
    allTenants++
    allSecrets += (await storage.list(from, { limit: 1, count: 'exact' })).total ?? 0
  }
  return { allTenants, allSecrets }
}
