import { resources } from '../../schemas/registry.js'
import type { AnyResource, Column } from '../../schemas/resource.js'
import type { Connection, Statement } from './better-sqlite3.js'
import {
  type DriverChange,
  type DriverPage,
  type DriverQuery,
  type DriverRow,
  withColumns
} from './driver.js'
import { StorageError } from './errors.js'
import type { TenantId } from './port.js'
import { codeOf } from './sqlite-errors.js'

/** The values of a row, in the order of its columns. */
type SqlRow = unknown[]

export interface Table {
  get(tenant: TenantId | null, key: string): DriverRow | null
  page(tenant: TenantId | null, query: DriverQuery): DriverPage
  apply(tenant: TenantId, change: DriverChange, version: number): DriverRow | null
}

/** The statements of one resource, prepared when they are first needed. */
export function createTable(db: Connection, resource: AnyResource): Table {
  const { name, key, scope, order, columns, unique } = resource
  const everyColumn = columns.map((column) => column.name).join()
  const ofTenant = scope ? `${scope} = ? and ` : ''
  const unbounded = columns.flatMap((column, index) => (column.unbounded ? [index] : []))
  const statements = new Map<string, Statement<unknown[], SqlRow>>()

  /** The texts differ by shape only, never by value, so there are few. */
  function prepare(sql: string) {
    let statement = statements.get(sql)
    if (!statement) {
      statement = db.prepare<unknown[], SqlRow>(sql)
      if (statement.reader) statement.raw()
      statements.set(sql, statement)
    }
    return statement
  }

  /** The object that better-sqlite3 would make of them takes a third longer. */
  function decode(values: SqlRow): DriverRow {
    const row: Record<string, unknown> = {}
    for (let index = 0; index < columns.length; index++) {
      const column = columns[index] as Column
      row[column.name] = decodeValue(column, values[index])
    }
    return row
  }

  /** Reads no further than the page goes. */
  function readPage(found: Iterable<SqlRow>, size: number): DriverPage {
    const rows: DriverRow[] = []
    let left = size
    for (const values of found) {
      if (left <= 0) return { rows, cut: true }
      for (const index of unbounded) left -= (values[index] as string | null)?.length ?? 0
      rows.push(decode(values))
    }
    return { rows, cut: false }
  }

  function place(tenant: TenantId, rowKey: string): string[] {
    return scope ? [tenant, rowKey] : [rowKey]
  }

  const indexes = listIndexes(db, name)
  const alone = unique.flatMap(({ fields }) => (fields.length === 1 ? fields : []))

  /** SQLite knows the index of a unique field, and not which of the others is the most telling. */
  function indexFor(filter: DriverQuery['filter']): string {
    if (alone.some((field) => filter.has(field))) return ''
    const fields = resource.indexes.find((each) => each.every((field) => filter.has(field))) ?? []
    const index = indexes.get([scope, ...fields, order, key].join())
    return index ? ` indexed by ${index}` : ''
  }

  function period({ since, until }: Period): Condition[] {
    const conditions: Condition[] = []
    if (since !== undefined) conditions.push([`${order} >= ?`, since])
    if (until !== undefined) conditions.push([`${order} < ?`, until])
    return conditions
  }

  const selectOne = prepare(`select ${everyColumn} from ${name} where ${ofTenant}${key} = ?`)
  const selectAcross = prepare(`select ${everyColumn} from ${name} where ${key} = ?`)
  const selectVersion = db
    .prepare<unknown[], number>(`select version from ${name} where ${ofTenant}${key} = ?`)
    .pluck()
  const insertOne = db.prepare(
    `insert into ${name} (${everyColumn}) values (${columns.map(() => '?')})`
  )

  function assertVersion(tenant: TenantId, change: Exclude<DriverChange, { op: 'insert' }>): void {
    const version = selectVersion.get(...place(tenant, change.key))
    const about = { resource: name, key: change.key }
    if (version === undefined) throw new StorageError('not_found', about)
    if (change.expect !== undefined && version !== change.expect)
      throw new StorageError('stale', about)
  }

  function insert(row: DriverRow, version: number): DriverRow {
    // The columns are strict and the values normal: what comes back is what was given.
    const stored = withColumns(row, { version })
    insertOne.run(...columns.map((column) => encodeValue(column, stored[column.name])))
    return stored
  }

  function update(tenant: TenantId, rowKey: string, set: DriverRow, version: number): DriverRow {
    const changed = columns.filter((column) => column.name in set)
    const assignments = changed.map((column) => `${column.name} = ?`)
    const sql = `update ${name} set ${assignments}, version = ? where ${ofTenant}${key} = ? returning ${everyColumn}`
    const values = changed.map((column) => encodeValue(column, set[column.name]))
    return decode(prepare(sql).get(...values, version, ...place(tenant, rowKey)) as SqlRow)
  }

  return {
    get(tenant, rowKey) {
      const row =
        tenant === null ? selectAcross.get(rowKey) : selectOne.get(...place(tenant, rowKey))
      return row ? decode(row) : null
    },

    page(tenant, query) {
      const scoped: Condition[] = scope && tenant !== null ? [[`${scope} = ?`, tenant]] : []
      for (const [field, value] of query.filter) {
        const column = columns.find((each) => each.name === field) as Column
        // Not `is`: SQLite would not see that a unique field finds one row at most.
        scoped.push(
          value === null ? [`${field} is null`] : [`${field} = ?`, encodeValue(column, value)]
        )
      }
      const from = `from ${name}${tenant === null ? '' : indexFor(query.filter)}`
      function select(what: string, conditions: Condition[], rest: string, ...values: unknown[]) {
        const where = conditions.length
          ? ` where ${conditions.map(([sql]) => sql).join(' and ')}`
          : ''
        const given = conditions.flatMap(([, ...each]) => each)
        return prepare(`select ${what} ${from}${where}${rest}`).iterate(...given, ...values)
      }

      const [counted] = query.count ? select('count(*)', [...scoped, ...period(query)], '') : []
      const { order: direction, after } = query
      const beyond = direction === 'asc' ? '>' : '<'
      const conditions = [...scoped, ...period(remaining(query))]
      if (after) conditions.push([`(${order}, ${key}) ${beyond} (?, ?)`, after.at, after.key])
      const inOrder = ` order by ${order} ${direction}, ${key} ${direction} limit ?`
      const page = readPage(select(everyColumn, conditions, inOrder, query.limit), query.size)
      return counted ? { ...page, total: counted[0] as number } : page
    },

    apply(tenant, change, version) {
      if (change.op !== 'insert') assertVersion(tenant, change)
      try {
        switch (change.op) {
          case 'insert':
            return insert(change.row, version)
          case 'update':
            return update(tenant, change.key, change.set, version)
          case 'delete':
            prepare(`delete from ${name} where ${ofTenant}${key} = ?`).run(
              ...place(tenant, change.key)
            )
            return null
          case 'check':
            return null
        }
      } catch (error) {
        throw constraintError(db, tenant, change, error)
      }
    }
  }
}

/** A condition and the values of its parameters. */
type Condition = [sql: string, ...values: unknown[]]

/**
 * What is left of the period behind the cursor. SQLite seeks by one bound on each side, and of two
 * it may take the looser one and read all that lies between.
 */
function remaining({ since, until, order, after }: DriverQuery): Period {
  if (after && order === 'asc')
    return { since: since && since > after.at ? since : undefined, until }
  if (after) return { since, until: until && until <= after.at ? until : undefined }
  return { since, until }
}

type Period = Pick<DriverQuery, 'since' | 'until'>

/**
 * The name of each index of a table, by its columns. A query names its index: where there are no
 * statistics, SQLite prefers one that leaves the filter to be checked row by row as soon as a period
 * is asked for, too.
 */
function listIndexes(db: Connection, table: string): ReadonlyMap<string, string> {
  const indexes = db
    .prepare<[string], { name: string; columns: string }>(
      `select list.name, group_concat(info.name order by info.seqno) as columns
       from pragma_index_list(?) as list, pragma_index_info(list.name) as info group by list.name`
    )
    .all(table)
  return new Map(indexes.map((index) => [index.columns, index.name]))
}

function encodeValue({ kind }: Column, value: unknown): unknown {
  if (value === null || value === undefined) return null
  if (kind === 'json') return JSON.stringify(value)
  if (kind === 'boolean') return value ? 1 : 0
  return value
}

function decodeValue({ kind }: Column, value: unknown): unknown {
  if (value === null) return null
  if (kind === 'json') return JSON.parse(value as string)
  return kind === 'boolean' ? value === 1 : value
}

/** What a failed constraint means for the change that met it. */
function constraintError(
  db: Connection,
  tenant: TenantId,
  change: DriverChange,
  error: unknown
): unknown {
  const about = { resource: change.resource.name, key: change.key, cause: error }
  switch (codeOf(error)) {
    case 'SQLITE_CONSTRAINT_PRIMARYKEY':
    case 'SQLITE_CONSTRAINT_UNIQUE': {
      // "UNIQUE constraint failed: flows.tenant_id, flows.id"
      const [, list = ''] = (error as Error).message.split('failed: ')
      const fields = list.split(', ').map((column) => column.slice(column.indexOf('.') + 1))
      const named = fields.filter((field) => field !== 'tenant_id')
      return new StorageError('conflict', { ...about, fields: named })
    }
    case 'SQLITE_CONSTRAINT_FOREIGNKEY':
      return change.op === 'delete'
        ? new StorageError('reference_in_use', about)
        : new StorageError('reference_missing', {
            ...about,
            fields: danglingFields(db, tenant, change)
          })
    default:
      return error
  }
}

/** SQLite does not say which reference failed. */
function danglingFields(db: Connection, tenant: TenantId, change: DriverChange): string[] {
  const values = 'row' in change ? change.row : 'set' in change ? change.set : {}
  const dangling = change.resource.references
    .filter(({ field }) => values[field] !== undefined && values[field] !== null)
    .filter(({ field, to }) => {
      const target = resources.find(({ name }) => name === to) as AnyResource
      const sql = `select 1 from ${to} where tenant_id = ? and ${target.key} = ?`
      return !db.prepare(sql).get(tenant, values[field])
    })
    .map(({ field }) => field)
  return dangling.length ? dangling : ['tenant_id']
}
