import { setTimeout as sleep } from 'node:timers/promises'
import type { Test } from 'tap'
import { StorageError } from '../../adapters/storage/errors.js'
import type { Change, Storage, TenantId } from '../../adapters/storage/port.js'
import { connections } from '../../schemas/connections.js'
import type { AnyResource } from '../../schemas/resource.js'
import { templates } from '../../schemas/templates.js'
import { tenants } from '../../schemas/tenants.js'

/** What became of the commits of a load, by their ids. */
export interface LoadOutcome {
  readonly stored: string[]
  /** The storage said that nothing was done. */
  readonly refused: string[]
  /** The storage said that it does not know. */
  readonly unknown: string[]
}

const WORKERS = 4
/** Long enough for any restart; only a storage that does not recover waits for it. */
const RECOVERY_MS = 60_000

export async function createLoadTenant(storage: Storage, id: string): Promise<TenantId> {
  const tenant = id as TenantId
  const row = { id, name: `Load ${id}` }
  await storage.commit({ tenant, changes: [{ op: 'insert', resource: tenants, row }] })
  return tenant
}

/**
 * Commits two rows at a time while `disturb` runs, and goes on until every worker has stored
 * something after it. `progress` waits until so many more were stored.
 */
export async function loadWhile(
  storage: Storage,
  tenant: TenantId,
  disturb: (progress: (commits: number) => Promise<void>) => Promise<void>
): Promise<LoadOutcome> {
  const outcome: LoadOutcome = { stored: [], refused: [], unknown: [] }
  let calm = false
  let next = 0

  async function work(): Promise<void> {
    let deadline = Number.POSITIVE_INFINITY
    for (;;) {
      const late = calm
      if (late) deadline = Math.min(deadline, Date.now() + RECOVERY_MS)
      const result = await commitPair(storage, tenant, `load-${next++}`, outcome)
      if (late && result === 'stored') return
      if (Date.now() > deadline) throw new Error('the storage did not recover')
      // A refusal comes at once: leave the others some room.
      if (result !== 'stored') await sleep(5)
    }
  }

  const workers = Array.from({ length: WORKERS }, work)
  try {
    await disturb(async (commits) => {
      const enough = outcome.stored.length + commits
      const deadline = Date.now() + RECOVERY_MS
      while (outcome.stored.length < enough) {
        if (Date.now() > deadline) throw new Error('the storage did not recover')
        await sleep(5)
      }
    })
  } finally {
    calm = true
  }
  await Promise.all(workers)
  return outcome
}

async function commitPair(
  storage: Storage,
  tenant: TenantId,
  id: string,
  outcome: LoadOutcome
): Promise<keyof LoadOutcome> {
  const result = await storage.commit({ tenant, changes: pair(id) }).then(
    () => 'stored' as const,
    (error) => {
      if (error instanceof StorageError && error.code === 'unavailable') return 'refused' as const
      if (error instanceof StorageError && error.code === 'outcome_unknown')
        return 'unknown' as const
      throw error
    }
  )
  outcome[result].push(id)
  return result
}

function pair(id: string): Change[] {
  const rows: [AnyResource, Record<string, unknown>][] = [
    [templates, { id, name: id, description: '' }],
    [connections, { id, provider: 'p', category: 'c', account: id, status: 'connected' }]
  ]
  return rows.map(([resource, row]) => ({ op: 'insert', resource, row }))
}

/** What was acknowledged is there, what was refused is not, and the rest is whole or absent. */
export async function assertLoad(
  t: Test,
  storage: Storage,
  tenant: TenantId,
  { stored, refused, unknown }: LoadOutcome
): Promise<void> {
  const first = new Set(await allKeys(storage, tenant, templates))
  const second = new Set(await allKeys(storage, tenant, connections))
  t.strictSame([...first].sort(), [...second].sort(), 'commits are whole or absent')
  t.strictSame(
    stored.filter((id) => !first.has(id)),
    [],
    'what was acknowledged is there'
  )
  t.strictSame(
    refused.filter((id) => first.has(id)),
    [],
    'what was refused is not there'
  )
  const known = new Set([...stored, ...unknown])
  t.strictSame(
    [...first].filter((id) => !known.has(id)),
    [],
    'nothing else is there'
  )
  t.comment(`${stored.length} stored, ${refused.length} refused, ${unknown.length} unknown`)
}

async function allKeys(storage: Storage, tenant: TenantId, resource: AnyResource) {
  const keys: string[] = []
  let cursor: string | null | undefined
  do {
    const page = await storage.list(
      { resource, tenant },
      { limit: 1000, ...(cursor ? { cursor } : {}) }
    )
    keys.push(...page.rows.map((row) => row[resource.key] as string))
    cursor = page.next
  } while (cursor)
  return keys
}
