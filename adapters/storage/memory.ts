import sortedBtree from 'sorted-btree'
import { resources } from '../../schemas/registry.js'
import type { AnyResource, Reference, Unique } from '../../schemas/resource.js'
import { compareBytes } from './bytes.js'
import {
  type Driver,
  type DriverChange,
  type DriverQuery,
  type DriverRow,
  type Position,
  positionOf,
  withColumns
} from './driver.js'
import { StorageError } from './errors.js'
import type { TenantId } from './port.js'

const BTree = sortedBtree.default
/** A row and its place in lists: one object, since a partition has as many as rows. */
interface Entry extends Position {
  readonly row: DriverRow
}

/** Rows in list order. A page reads its rows from here and from nowhere else in the memory. */
type Index = sortedBtree.default<Entry, DriverRow>

/** The rows of one tenant in one table, and the indexes that keep every read off a scan. */
interface Partition {
  readonly rows: Map<string, Entry>
  readonly all: Index
  /** By the fields that they are of. */
  readonly indexes: ReadonlyMap<string, ValueIndexes>
}

/** For each value of the fields, or values where they are several: an index of the rows that have it. */
interface ValueIndexes {
  readonly fields: readonly string[]
  /** A row that is alone with its value, as most are with an id, needs no tree. */
  readonly byValue: Map<unknown, Index | Entry>
}

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
      const index = indexOf(held?.indexes.get(holder.reference.field)?.byValue.get(key))
      if (!held || !index) continue
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
      const target = row[field]
      if (target === null) continue
      if (
        !tables
          .get(to)
          ?.partitions.get(tenant)
          ?.rows.has(target as string)
      )
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
    const { filters, indexes } = table.resource
    // Unique fields that are filtered by have one here, too.
    const lists = [...filters.map((field) => [field]), ...indexes]
    partition = {
      rows: new Map(),
      all: createIndex([]),
      indexes: new Map(lists.map((fields) => [fields.join(), { fields, byValue: new Map() }]))
    }
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

/** Enters a row, in the place of an older one where there is one. */
function link(partition: Partition, entry: Entry, old: Entry | undefined): void {
  // `set` alone would leave the old entry, and so the old row, in the nodes above the leaf.
  if (old) unlist(partition, old)
  partition.rows.set(entry.key, entry)
  partition.all.set(entry, entry.row)
  for (const { fields, byValue } of partition.indexes.values()) {
    const value = indexedValue(fields, entry.row)
    const index = byValue.get(value)
    if (index instanceof BTree) index.set(entry, entry.row)
    else byValue.set(value, index ? createIndex([index, entry]) : entry)
  }
}

function unlink(partition: Partition, entry: Entry): void {
  partition.rows.delete(entry.key)
  unlist(partition, entry)
}

/** Takes a row out of all lists. */
function unlist(partition: Partition, entry: Entry): void {
  partition.all.delete(entry)
  for (const { fields, byValue } of partition.indexes.values())
    unindex(byValue, indexedValue(fields, entry.row), entry)
}

function unindex(byValue: ValueIndexes['byValue'], value: unknown, entry: Entry): void {
  const index = byValue.get(value)
  if (index instanceof BTree) {
    index.delete(entry)
    if (index.isEmpty) byValue.delete(value)
  } else byValue.delete(value)
}

function createIndex(entries: readonly Entry[]): Index {
  return new BTree(
    entries.map((entry) => [entry, entry.row]),
    comparePositions
  )
}

function indexOf(held: Index | Entry | undefined): Index | undefined {
  return held && !(held instanceof BTree) ? createIndex([held]) : held
}

function indexedValue(fields: readonly string[], row: DriverRow): unknown {
  const [first = ''] = fields
  return fields.length === 1 ? row[first] : JSON.stringify(fields.map((field) => row[field]))
}

/** The smallest index that holds all rows of the filter, and the fields it does not settle. */
function chooseIndex(partition: Partition, { filter }: DriverQuery) {
  let index: Index | undefined = partition.all
  let settled: readonly string[] = []
  if (filter.size) {
    const wanted = Object.fromEntries(filter)
    for (const { fields, byValue } of partition.indexes.values()) {
      if (!fields.every((field) => filter.has(field))) continue
      const candidate = indexOf(byValue.get(indexedValue(fields, wanted)))
      if (!candidate) return { index: undefined, rest: [] }
      if (settled.length && candidate.size > index.size) continue
      index = candidate
      settled = fields
    }
  }
  return { index, rest: [...filter].filter(([field]) => !settled.includes(field)) }
}

function readPage(partition: Partition, query: DriverQuery): DriverRow[] {
  const { index, rest } = chooseIndex(partition, query)
  const found: DriverRow[] = []
  for (const row of walk(index, query)) {
    if (rest.every(([field, value]) => row[field] === value)) found.push(row)
    if (found.length === query.limit) break
  }
  return found
}

function countRows(partition: Partition, query: DriverQuery): number {
  const { index, rest } = chooseIndex(partition, query)
  if (index && rest.length === 0 && query.since === undefined && query.until === undefined)
    return index.size
  const all = { ...query, after: undefined, limit: Number.POSITIVE_INFINITY }
  return readPage(partition, all).length
}

/** The rows of an index within the query's period, in its order, after its cursor. */
function* walk(index: Index | undefined, query: DriverQuery) {
  if (!index) return
  const { order, since, until, after } = query
  // The index compares `at` and `key` alone, so that this needs no row.
  const start = startOf(query) as Entry | undefined
  const reused: (Entry | DriverRow)[] = []
  if (order === 'asc') {
    let passed = after
    for (const [entry, row] of index.entries(start, reused)) {
      if (until !== undefined && entry.at >= until) return
      if (passed && comparePositions(entry, passed) <= 0) continue
      passed = undefined
      yield row
    }
  } else {
    for (const [entry, row] of index.entriesReversed(start, reused, start !== undefined)) {
      if (since !== undefined && entry.at < since) return
      yield row
    }
  }
}

/** The later, in the query's order, of its cursor and the beginning of its period. */
function startOf({ order, since, until, after }: DriverQuery): Position | undefined {
  const at = order === 'asc' ? since : until
  if (at === undefined) return after
  const from = { at, key: '' }
  if (!after) return from
  const isLater = comparePositions(after, from) > 0 === (order === 'asc')
  return isLater ? after : from
}

function entryOf(resource: AnyResource, row: DriverRow): Entry {
  const { at, key } = positionOf(resource, row)
  return { at, key, row }
}

/** Timestamps are ASCII of one length, so `<` is the order of their bytes. */
function comparePositions(a: Position, b: Position): number {
  return a.at < b.at ? -1 : a.at > b.at ? 1 : compareBytes(a.key, b.key)
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
