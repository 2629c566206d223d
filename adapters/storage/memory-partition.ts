import sortedBtree from 'sorted-btree'
import type { AnyResource } from '../../schemas/resource.js'
import { compareBytes } from './bytes.js'
import { type DriverQuery, type DriverRow, type Position, positionOf } from './driver.js'

const BTree = sortedBtree.default
/** A row and its place in lists: one object, since a partition has as many as rows. */
export interface Entry extends Position {
  readonly row: DriverRow
}

/** Rows in list order. A page reads its rows from here and from nowhere else in the memory. */
type Index = sortedBtree.default<Entry, DriverRow>

/** The rows of one tenant in one table, and the indexes that keep every read off a scan. */
export interface Partition {
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

export function createPartition({ filters, indexes }: AnyResource): Partition {
  // Unique fields that are filtered by have one here, too.
  const lists = [...filters.map((field) => [field]), ...indexes]
  return {
    rows: new Map(),
    all: createIndex([]),
    indexes: new Map(lists.map((fields) => [fields.join(), { fields, byValue: new Map() }]))
  }
}

export function entryOf(resource: AnyResource, row: DriverRow): Entry {
  const { at, key } = positionOf(resource, row)
  return { at, key, row }
}

/** Enters a row, in the place of an older one where there is one. */
export function link(partition: Partition, entry: Entry, old: Entry | undefined): void {
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

export function unlink(partition: Partition, entry: Entry): void {
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

/** The rows that have a value in a field that is filtered by, where there are any. */
export function rowsWith({ indexes }: Partition, field: string, value: string): Index | undefined {
  return indexOf(indexes.get(field)?.byValue.get(value))
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

export function readPage(partition: Partition, query: DriverQuery): DriverRow[] {
  const { index, rest } = chooseIndex(partition, query)
  const found: DriverRow[] = []
  for (const row of walk(index, query)) {
    if (rest.every(([field, value]) => row[field] === value)) found.push(row)
    if (found.length === query.limit) break
  }
  return found
}

export function countRows(partition: Partition, query: DriverQuery): number {
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

/** Timestamps are ASCII of one length, so `<` is the order of their bytes. */
export function comparePositions(a: Position, b: Position): number {
  return a.at < b.at ? -1 : a.at > b.at ? 1 : compareBytes(a.key, b.key)
}
