import type { AnyResource, Column, Unique } from '../../schemas/resource.js'
import { decodeCursor, encodeCursor, listDigest } from './cursor.js'
import { type Driver, type DriverChange, positionOf } from './driver.js'
import { StorageError } from './errors.js'
import { normalValue } from './normal-value.js'
import {
  ACROSS_TENANTS,
  type Change,
  type Query,
  type Scope,
  type Storage,
  SYSTEM,
  type TenantId
} from './port.js'
import { normalTime, timestampOf } from './timestamp.js'

/**
 * What a page may come to, in characters, but for its last row: whoever asks for many long rows at
 * once must not take the server's memory.
 */
export const PAGE_SIZE = 4 * 1024 * 1024

/**
 * Makes a storage of a driver: everything that must not differ between storages happens here, once.
 */
export function createStorage(driver: Driver): Storage {
  let closing: Promise<void> | undefined

  function assertOpen(): void {
    if (closing) throw new StorageError('closed')
  }

  /** Hands on the promise of the driver, where an async function would make another. */
  function whileOpen<T>(ask: () => Promise<T>): Promise<T> {
    try {
      assertOpen()
      return ask()
    } catch (error) {
      return Promise.reject(error)
    }
  }

  const storage = {
    kind: driver.kind,

    get({ resource, tenant }, key) {
      return whileOpen(() => driver.get(resource, driverScope(resource, tenant), key))
    },

    async list({ resource, tenant }, query) {
      assertOpen()
      const { filter, since, until, order, limit, cursor, count } = normalise(resource, query)
      const list = listDigest([resource.name, order, filter, since, until])
      const { rows, cut, total } = await driver.page(resource, driverScope(resource, tenant), {
        filter: new Map(filter),
        since,
        until,
        order,
        limit: limit + 1,
        size: PAGE_SIZE,
        after: cursor === undefined ? undefined : decodeCursor(list, cursor),
        count: count === 'exact'
      })
      const page = rows.length > limit ? rows.slice(0, limit) : rows
      const last = page.at(-1)
      return {
        rows: page,
        next:
          last && (cut || rows.length > limit)
            ? encodeCursor(list, positionOf(resource, last))
            : null,
        ...(total === undefined ? {} : { total })
      }
    },

    commit({ tenant, changes, at }) {
      return whileOpen(() => {
        const stamp = timestampOf(at ?? new Date())
        const complete = changes.map((change) => completeChange(tenant, stamp, change))
        return driver.apply(tenant, complete)
      })
    },

    async compact() {
      assertOpen()
      return (await driver.compact?.()) ?? false
    },

    async ping() {
      assertOpen()
      return driver.ping()
    },

    close() {
      closing ??= driver.close()
      return closing
    }
  } as Storage
  return storage
}

function driverScope(resource: AnyResource, tenant: Scope): TenantId | null {
  if (resource.scope === null && tenant !== SYSTEM)
    throw new TypeError(`${resource.name} belong to no tenant: read them as SYSTEM`)
  if (tenant === ACROSS_TENANTS && !hasGlobalKey(resource))
    throw new TypeError(`${resource.name} of two tenants may have one key: read each tenant's`)
  return tenant === ACROSS_TENANTS ? null : tenant
}

/** Whether a key names one row among those of all tenants, so that it breaks every tie. */
function hasGlobalKey({ scope, key, unique }: AnyResource): boolean {
  const alone = ({ fields, within }: Unique) => within === 'everywhere' && fields.join() === key
  return scope !== 'tenant_id' || unique.some(alone)
}

function normalise(resource: AnyResource, query: Query<AnyResource>) {
  const filter = Object.entries(query.filter ?? {})
    .filter(([, value]) => value !== undefined)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([field, value]): [string, unknown] => {
      if (!resource.filters.includes(field))
        throw new TypeError(`${resource.name} cannot be filtered by ${field}`)
      const column = resource.columns.find(({ name }) => name === field) as Column
      return [field, normalValue(column, value)]
    })
  if (!(Number.isInteger(query.limit) && query.limit >= 1 && query.limit <= 1000))
    throw new RangeError(`limit must be from 1 to 1000, not ${query.limit}`)
  return {
    ...query,
    filter,
    order: query.order ?? ('desc' as const),
    since: query.since === undefined ? undefined : normalTime(query.since),
    until: query.until === undefined ? undefined : normalTime(query.until)
  }
}

function completeChange(tenant: TenantId, stamp: string, change: Change): DriverChange {
  const { resource } = change
  const isOfNoTenant = resource.scope === null
  const isMisplaced = isOfNoTenant !== (tenant === SYSTEM)
  if (isMisplaced && !(isOfNoTenant && change.op === 'check'))
    throw new TypeError(`${resource.name} cannot be written as tenant ${tenant}`)
  switch (change.op) {
    case 'insert': {
      const given = change.row as Record<string, unknown>
      const row: Record<string, unknown> = {}
      for (const column of resource.columns) {
        const { name } = column
        if (name === resource.scope) row[name] = tenant
        else if (name === 'created_at' || name === 'updated_at') row[name] = stamp
        else if (name !== 'version') row[name] = normalValue(column, given[name])
      }
      return { op: 'insert', resource, key: row[resource.key] as string, row }
    }
    case 'update': {
      const set: Record<string, unknown> = { updated_at: stamp }
      const given = change.set as Record<string, unknown>
      for (const column of resource.columns)
        if (given[column.name] !== undefined && !isFixed(resource, column))
          set[column.name] = normalValue(column, given[column.name])
      return { op: 'update', resource, key: change.key, expect: change.expect, set }
    }
    case 'delete':
      return { op: 'delete', resource, key: change.key, expect: change.expect }
    case 'check':
      return { op: 'check', resource, key: change.key, expect: change.expect }
  }
}

/** What no caller sets in a row that exists: where it is, and its stamps. */
function isFixed({ key, scope }: AnyResource, { name }: Column): boolean {
  return [key, scope, 'created_at', 'updated_at', 'version'].includes(name)
}
