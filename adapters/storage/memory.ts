import { resources } from '../../schemas/registry.js'
import type { AnyResource, Reference, Unique } from '../../schemas/resource.js'
import {
  type Driver,
  type DriverChange,
  type DriverQuery,
  type DriverRow,
  positionOf,
  withColumns
} from './driver.js'
import { StorageError } from './errors.js'
import {
  comparePositions,
  countRows,
  createPartition,
  type Entry,
  entryOf,
  link,
  type Partition,
  readPage,
  rowsWith,
  unlink
} from './memory-partition.js'
import type { TenantId } from './port.js'

interface Table {
  readonly resource: AnyResource
  readonly partitions: Map<string, Partition>
  readonly uniques: readonly UniqueIndex[]
  /** Who refers to this table. */
  readonly holders: { readonly table: Table; readonly reference: Reference }[]
  /** The sizes of rows that are long enough for pages to count them, once there are any. */
  longRows: WeakMap<DriverRow, number> | undefined
}

interface UniqueIndex {
  readonly unique: Unique
  readonly owners: Map<string, { readonly tenant: string; readonly key: string }>
}

/** Characters of a row that no page need count: a thousand such rows are not many. */
const SHORT = 4096

/** Puts back what a step of a commit did. */
type Undo = () => void

/**
 * Keeps everything in this process and loses it with it. Unique fields, references, cascades and
 * versions follow from the declarations, so it obeys the rules that SQL databases are told.
 */
export function openMemory(): Driver {
  const tables = createTables()
  let commits = 0

  function tableOf(resource: AnyResource): Table {
    return tables.get(resource.name) as Table
  }

  function step(
    tenant: TenantId,
    change: DriverChange,
    version: number,
    undo: Undo[]
  ): DriverRow | null {
    const table = tableOf(change.resource)
    const partition = partitionOf(table, change.resource.scope ? tenant : '')
    if (change.op === 'insert') {
      if (partition.rows.has(change.key)) throw taken(change, [change.resource.key])
      const row = Object.freeze(withColumns(change.row, { version }))
      put(table, partition, undefined, row, undo)
      assertReferences(change, row)
      return row
    }
    const entry = partition.rows.get(change.key)
    if (!entry) throw new StorageError('not_found', about(change))
    if (change.expect !== undefined && entry.row.version !== change.expect)
      throw new StorageError('stale', about(change))
    if (change.op === 'check') return null
    if (change.op === 'delete') {
      remove(table, partition, entry, undo)
      return null
    }
    const row = Object.freeze(withColumns(entry.row, withColumns(change.set, { version })))
    put(table, partition, entry, row, undo)
    assertReferences(change, row)
    return row
  }

  function put(
    table: Table,
    partition: Partition,
    old: Entry | undefined,
    row: DriverRow,
    undo: Undo[]
  ): void {
    const { resource } = table
    const key = row[resource.key] as string
    for (const { unique, owners } of table.uniques) {
      const value = uniqueValue(resource, unique, row)
      const before = old && uniqueValue(resource, unique, old.row)
      if (value === before) continue
      if (value !== null && owners.has(value)) throw taken({ resource, key }, unique.fields)
      const owner = { tenant: tenantOf(resource, row), key }
      if (value !== null) owners.set(value, owner)
      if (before) owners.delete(before)
      undo.push(() => {
        if (value !== null) owners.delete(value)
        if (before) owners.set(before, owner)
      })
    }
    noteSize(table, row)
    const entry = entryOf(resource, row)
    link(partition, entry, old)
    undo.push(() => (old ? link(partition, old, entry) : unlink(partition, entry)))
  }

  function remove(table: Table, partition: Partition, entry: Entry, undo: Undo[]): void {
    const { resource } = table
    const { key } = entry
    const tenant = tenantOf(resource, entry.row)
    unlink(partition, entry)
    undo.push(() => link(partition, entry, undefined))
    for (const { unique, owners } of table.uniques) {
      const value = uniqueValue(resource, unique, entry.row)
      if (value === null) continue
      owners.delete(value)
      undo.push(() => owners.set(value, { tenant, key }))
    }
    if (resource.tenancy === 'root') removeTenant(key, undo)
    for (const holder of table.holders) {
      const held = holder.table.partitions.get(tenant)
      const index = held && rowsWith(held, holder.reference.field, key)
      if (!index) continue
      if (holder.reference.onDelete === 'restrict')
        throw new StorageError('reference_in_use', { resource: resource.name, key })
      for (const each of index.keysArray()) remove(holder.table, held, each, undo)
    }
  }

  /** The last table first, so that a row goes after the rows that refer to it. */
  function removeTenant(tenant: string, undo: Undo[]): void {
    for (const table of [...tables.values()].reverse()) {
      if (table.resource.tenancy !== 'owned') continue
      const partition = table.partitions.get(tenant)
      for (const entry of [...(partition?.rows.values() ?? [])])
        remove(table, partition as Partition, entry, undo)
    }
  }

  function assertReferences(change: DriverChange, row: DriverRow): void {
    const { resource } = change
    const tenant = tenantOf(resource, row)
    for (const { field, to } of resource.references) {
      const target = row[field] as string | null
      const held = tables.get(to)?.partitions.get(tenant)?.rows
      if (target !== null && !held?.has(target))
        throw new StorageError('reference_missing', { ...about(change), fields: [field] })
    }
    if (resource.scope === 'tenant_id' && !tables.get('tenants')?.partitions.get(tenant)?.rows.size)
      throw new StorageError('reference_missing', { ...about(change), fields: ['tenant_id'] })
  }

  /**
   * The tenant that has a value which is unique among all tenants: empty where none has it, undefined
   * where there is no such value among these.
   */
  function ownerOf(resource: AnyResource, values: DriverRow): string | undefined {
    for (const { unique, owners } of tableOf(resource).uniques) {
      if (unique.within !== 'everywhere') continue
      const value = uniqueValue(resource, unique, values)
      if (value !== null) return owners.get(value)?.tenant ?? ''
    }
    return undefined
  }

  /** The tenant of a row whose key is no other tenant's; empty where there is no such row. */
  function tenantOfKey(resource: AnyResource, key: string): string {
    return resource.tenancy === 'root' ? key : (ownerOf(resource, { [resource.key]: key }) ?? '')
  }

  /** The partitions that hold what is asked for. */
  function partitions(resource: AnyResource, tenant: TenantId | null, query: DriverQuery) {
    const table = tableOf(resource)
    if (tenant !== null || !resource.scope) {
      const one = table.partitions.get(resource.scope ? (tenant as string) : '')
      return one ? [one] : []
    }
    const owner = ownerOf(resource, Object.fromEntries(query.filter))
    if (owner === undefined) return [...table.partitions.values()]
    const one = table.partitions.get(owner)
    return one ? [one] : []
  }

  return {
    kind: 'memory',

    async get(resource, tenant, key) {
      const owner = tenant ?? tenantOfKey(resource, key)
      const partition = tableOf(resource).partitions.get(resource.scope ? owner : '')
      return partition?.rows.get(key)?.row ?? null
    },

    async page(resource, tenant, query) {
      const parts = partitions(resource, tenant, query)
      const found = parts.flatMap((partition) => readPage(partition, query))
      if (parts.length > 1) {
        found.sort((a, b) => comparePositions(positionOf(resource, a), positionOf(resource, b)))
        if (query.order === 'desc') found.reverse()
      }
      const all = found.slice(0, query.limit)
      const rows = withinSize(tableOf(resource), all, query.size)
      const cut = rows.length < all.length
      if (!query.count) return { rows, cut }
      return { rows, cut, total: parts.reduce((sum, part) => sum + countRows(part, query), 0) }
    },

    async apply(tenant, changes) {
      const undo: Undo[] = []
      const version = ++commits
      try {
        return changes.map((change) => step(tenant, change, version, undo))
      } catch (error) {
        for (const back of undo.reverse()) back()
        throw error
      }
    },

    async ping() {
      return { migration: null }
    },

    async close() {
      tables.clear()
    }
  }
}

function createTables(): Map<string, Table> {
  const tables = new Map<string, Table>()
  for (const resource of resources) {
    const uniques = resource.unique.map((unique) => ({ unique, owners: new Map() }))
    const table = { resource, partitions: new Map(), uniques, holders: [], longRows: undefined }
    tables.set(resource.name, table)
    for (const reference of resource.references)
      tables.get(reference.to)?.holders.push({ table, reference })
  }
  return tables
}

function partitionOf(table: Table, tenant: string): Partition {
  let partition = table.partitions.get(tenant)
  if (!partition) {
    partition = createPartition(table.resource)
    table.partitions.set(tenant, partition)
  }
  return partition
}

/** Once for each row, since a page would have to read all of it. */
function noteSize(table: Table, row: DriverRow): void {
  let size = 0
  for (const { name, kind, unbounded } of table.resource.columns) {
    const value = row[name]
    if (!unbounded || value === null) continue
    size += (kind === 'json' ? JSON.stringify(value) : (value as string)).length
  }
  if (size <= SHORT) return
  table.longRows ??= new WeakMap()
  table.longRows.set(row, size)
}

/** The first rows, up to the one with which they come to the size. */
function withinSize({ longRows }: Table, rows: DriverRow[], size: number): DriverRow[] {
  if (!longRows) return rows
  let left = size
  const isBeyond = (row: DriverRow) => {
    if (left <= 0) return true
    left -= longRows.get(row) ?? 0
    return false
  }
  const end = rows.findIndex(isBeyond)
  return end < 0 ? rows : rows.slice(0, end)
}

/** What must differ from every other row's, or null where a part is null (as in SQL). */
function uniqueValue(resource: AnyResource, unique: Unique, row: DriverRow): string | null {
  const values = unique.fields.map((field) => row[field] ?? null)
  if (values.includes(null)) return null
  return JSON.stringify(unique.within === 'tenant' ? [tenantOf(resource, row), ...values] : values)
}

function tenantOf(resource: AnyResource, row: DriverRow): string {
  return resource.scope ? (row[resource.scope] as string) : ''
}

function about({ resource, key }: { resource: AnyResource; key: string }) {
  return { resource: resource.name, key }
}

function taken(change: { resource: AnyResource; key: string }, fields: readonly string[]) {
  return new StorageError('conflict', { ...about(change), fields })
}
