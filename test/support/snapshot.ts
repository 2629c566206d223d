import type { Storage, TenantId } from '../../adapters/storage/port.js'
import { resources } from '../../schemas/registry.js'
import type { AnyResource } from '../../schemas/resource.js'

/** Every row of a tenant, in list order, by resource: two of these are equal if nothing changed. */
export async function snapshotOf(
  storage: Storage,
  tenant: TenantId
): Promise<Record<string, unknown[]>> {
  const snapshot: Record<string, unknown[]> = {}
  for (const resource of resources)
    if (resource.scope) snapshot[resource.name] = await allRows(storage, resource, tenant)
  return snapshot
}

async function allRows(storage: Storage, resource: AnyResource, tenant: TenantId) {
  const rows: unknown[] = []
  let cursor: string | undefined
  do {
    const query = { limit: 1000, ...(cursor ? { cursor } : {}) }
    const page = await storage.list({ resource, tenant }, query)
    rows.push(...page.rows)
    cursor = page.next ?? undefined
  } while (cursor)
  return rows
}
