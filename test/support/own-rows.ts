import type { Driver, DriverQuery, DriverRow } from '../../adapters/storage/driver.js'
import type { TenantId } from '../../adapters/storage/port.js'
import type { AnyResource } from '../../schemas/resource.js'
import type { StoragePlace } from '../contract/storage-contract.js'

/**
 * A place that is not empty, such as a project that others use, seen as if it were: reads that
 * cross tenants show only what was stored through it.
 */
export function withOwnRowsOnly(place: StoragePlace): StoragePlace {
  const made = new Set<unknown>()
  return { ...place, open: async () => showOwnRows(await place.open(), made) }
}

/** @param made keys of the tenants, and of the rows without one, that were stored. */
function showOwnRows(driver: Driver, made: Set<unknown>): Driver {
  const isOwn = (resource: AnyResource, row: DriverRow) =>
    made.has(row[resource.tenancy === 'owned' ? 'tenant_id' : resource.key])

  /** All own rows of a query, from its cursor on. */
  async function ownRows(resource: AnyResource, tenant: TenantId | null, query: DriverQuery) {
    const own: DriverRow[] = []
    let after = query.after
    for (;;) {
      const { rows } = await driver.page(resource, tenant, { ...query, after, limit: 1000 })
      own.push(...rows.filter((row) => isOwn(resource, row)))
      const last = rows.at(-1)
      if (!last || rows.length < 1000) return own
      after = { at: last[resource.order] as string, key: last[resource.key] as string }
    }
  }

  return {
    ...driver,
    async page(resource, tenant, query) {
      const crosses = tenant === null || resource.tenancy === 'system'
      if (!crosses) return driver.page(resource, tenant, query)
      const rows = (await ownRows(resource, tenant, query)).slice(0, query.limit)
      if (!query.count) return { rows }
      const all = await ownRows(resource, tenant, { ...query, after: undefined, count: false })
      return { rows, total: all.length }
    },
    apply(tenant, changes) {
      for (const { op, resource, key } of changes)
        if (op === 'insert' && resource.tenancy !== 'owned') made.add(key)
      return driver.apply(tenant, changes)
    }
  }
}
