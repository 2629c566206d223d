import { randomBytes } from 'node:crypto'
import type { Driver, DriverChange, DriverQuery, DriverRow } from '../../adapters/storage/driver.js'
import type { TenantId } from '../../adapters/storage/port.js'
import type { AnyResource } from '../../schemas/resource.js'
import type { StoragePlace } from '../contract/storage-contract.js'

/**
 * A place that is not empty, such as a project that others use, seen as if it were: reads that
 * cross tenants show only what was stored through it, and rows of no tenant have keys of their own.
 */
export function withOwnRowsOnly(place: StoragePlace): StoragePlace {
  const made = new Set<unknown>()
  const prefix = `${randomBytes(6).toString('hex')}-`
  return {
    ...place,
    open: async () => withKeyPrefix(showOwnRows(await place.open(), made), prefix)
  }
}

/** Rows of no tenant, leases for one, are stored under a longer key than is asked for. */
function withKeyPrefix(driver: Driver, prefix: string): Driver {
  const isShared = ({ tenancy }: AnyResource) => tenancy === 'system'

  function shown<Row extends DriverRow | null>(resource: AnyResource, row: Row): Row {
    if (!row || !isShared(resource)) return row
    return { ...row, [resource.key]: String(row[resource.key]).slice(prefix.length) }
  }

  function stored(change: DriverChange): DriverChange {
    if (!isShared(change.resource)) return change
    const key = `${prefix}${change.key}`
    if (change.op !== 'insert') return { ...change, key }
    return { ...change, key, row: { ...change.row, [change.resource.key]: key } }
  }

  return {
    ...driver,
    async get(resource, tenant, key) {
      const row = await driver.get(resource, tenant, isShared(resource) ? `${prefix}${key}` : key)
      return shown(resource, row)
    },
    async page(resource, tenant, query) {
      const { after } = query
      const from = after && isShared(resource) ? { ...after, key: `${prefix}${after.key}` } : after
      const page = await driver.page(resource, tenant, { ...query, after: from })
      return { ...page, rows: page.rows.map((row) => shown(resource, row)) }
    },
    async apply(tenant, changes) {
      const rows = await driver.apply(tenant, changes.map(stored))
      return rows.map((row, index) => shown((changes[index] as DriverChange).resource, row))
    }
  }
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
      const page = { ...query, after, limit: 1000, size: Number.MAX_SAFE_INTEGER }
      const { rows } = await driver.page(resource, tenant, page)
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
