import { accessSync, constants, existsSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import { resources } from '../../schemas/registry.js'
import type { AnyResource, Column } from '../../schemas/resource.js'
import { makeFolder } from '../durable-folders.js'
import Database, { type Connection, type Statement } from './better-sqlite3.js'
import {
  type Driver,
  type DriverChange,
  type DriverPage,
  type DriverQuery,
  type DriverRow,
  withColumns
} from './driver.js'
import { StorageError, type StorageErrorDetails } from './errors.js'
import {
  type AppliedMigration,
  type Migration,
  pendingMigrations,
  readMigrations,
  unknownMigrations
} from './migrations.js'
import type { TenantId } from './port.js'

export interface SqliteOptions {
  /** The database file; folders above it are made. */
  readonly path: string
  /** The file may not grow beyond this many pages of 4096 bytes. Unlimited by default. */
  readonly maxPages?: number
  /** Whether a database is made where there is none. True by default. */
  readonly mayMake?: boolean
  /** How long commits wait, in milliseconds, while another process holds the write lock. */
  readonly lockTimeout?: number
}

/** A commit that waits for its group, and how to answer it. */
interface Member {
  readonly tenant: TenantId
  readonly changes: readonly DriverChange[]
  /** By `performance.now`, which nobody puts back. */
  readonly deadline: number
  readonly resolve: (rows: (DriverRow | null)[]) => void
  readonly reject: (error: unknown) => void
}

type Outcome = { readonly rows: (DriverRow | null)[] } | { readonly error: unknown }
/** The values of a row, in the order of its columns. */
type SqlRow = unknown[]

/** SQLite waits for a lock by blocking the event loop: briefly, and the rest is up to a timer. */
const BUSY_TIMEOUT_MS = 50
const RETRY_MS = 20
/** Turns of the event loop that a commit waits for others, as long as each brings more of them. */
const MOST_TURNS = 4
/** Pages that are given back at a time, and that the event loop waits for: 1 MiB. */
const COMPACT_PAGES = 256

/**
 * One file, one writer. Durable when a commit resolves: WAL with `synchronous = FULL`. Commits
 * that arrive at about the same time share one transaction, and so its fsync. Where one of them is
 * refused, the transaction is repeated with a savepoint for each.
 */
export function openSqlite(options: SqliteOptions): Driver {
  const { db, migration } = openDatabase(options)
  const tables = new Map(resources.map((resource) => [resource.name, createTable(db, resource)]))
  const readVersion = db.prepare('select value from row_version').pluck()
  const writeVersion = db.prepare('update row_version set value = ?')
  const lockTimeout = options.lockTimeout ?? 5000

  let queue: Member[] = []
  let flushing: Promise<void> | undefined

  function tableOf(resource: AnyResource): Table {
    return tables.get(resource.name) as Table
  }

  async function flush(): Promise<void> {
    while (queue.length) {
      await gather()
      const members = queue
      queue = []
      const outcomes = runGroup(members)
      if (outcomes) answer(members, outcomes)
      else {
        queue = [...rejectLate(members), ...queue]
        if (queue.length) await sleep(RETRY_MS)
      }
    }
    flushing = undefined
  }

  /** Waits while others join. A commit that is alone waits for one turn. */
  async function gather(): Promise<void> {
    let size = 0
    for (let turns = 0; queue.length > size && turns < MOST_TURNS; turns++) {
      size = queue.length
      await nextTurn()
    }
  }

  /** One transaction for all; null where another process holds the write lock. */
  function runGroup(members: readonly Member[]): Outcome[] | null {
    try {
      return storeAll(members) ?? inTransaction(members, runMember)
    } catch (error) {
      // SQLite rolls back by itself on some errors, SQLITE_FULL among them.
      if (!db.inTransaction && codeOf(error).startsWith('SQLITE_BUSY')) return null
      const failed = { error: storageError(error) }
      try {
        endTransaction()
      } catch {
        // Tried again before the next statement. The first error says more.
      }
      return members.map(() => failed)
    }
  }

  /**
   * Without savepoints, which cost as much again; null where a member is refused and so needs one.
   * What the disk refused, and a COMMIT that failed, is not tried again: it might only look well.
   */
  function storeAll(members: readonly Member[]): Outcome[] | null {
    let refused = false
    try {
      return inTransaction(members, (member, version) => {
        try {
          return { rows: store(member, version) }
        } catch (error) {
          refused = db.inTransaction && outageOf(error) === undefined
          throw error
        }
      })
    } catch (error) {
      if (refused) return null
      throw error
    }
  }

  function inTransaction(
    members: readonly Member[],
    run: (member: Member, version: number) => Outcome
  ): Outcome[] {
    endTransaction()
    db.exec('begin immediate')
    let version = readVersion.get() as number
    const outcomes = members.map((member) => run(member, ++version))
    writeVersion.run(version)
    db.exec('commit')
    return outcomes
  }

  function store({ tenant, changes }: Member, version: number): (DriverRow | null)[] {
    return changes.map((change) => tableOf(change.resource).apply(tenant, change, version))
  }

  /** What a failed group left, none may see or store: not a read, and not the next group. */
  function endTransaction(): void {
    if (db.inTransaction) db.exec('rollback')
  }

  function freePages(): number {
    return db.pragma('freelist_count', { simple: true }) as number
  }

  function read<T>(work: () => T): T {
    return guard(() => {
      endTransaction()
      return work()
    })
  }

  /** @throws where the whole transaction is gone, so that no member may be answered as stored. */
  function runMember(member: Member, version: number): Outcome {
    db.exec('savepoint member')
    try {
      const rows = store(member, version)
      db.exec('release member')
      return { rows }
    } catch (error) {
      if (!db.inTransaction) throw error
      db.exec('rollback to member')
      db.exec('release member')
      return { error: storageError(error) }
    }
  }

  return {
    kind: 'sqlite',

    async get(resource, tenant, key) {
      return read(() => tableOf(resource).get(tenant, key))
    },

    async page(resource, tenant, query) {
      return read(() => tableOf(resource).page(tenant, query))
    },

    apply(tenant, changes) {
      return new Promise((resolve, reject) => {
        const deadline = performance.now() + lockTimeout
        queue.push({ tenant, changes, deadline, resolve, reject })
        flushing ??= flush()
      })
    },

    async compact() {
      return read(() => {
        const before = freePages()
        db.pragma(`incremental_vacuum(${COMPACT_PAGES})`)
        const left = freePages()
        // None of a file that was made without auto_vacuum.
        const given = before - left
        // The file itself becomes smaller when the log is written into it.
        if (given > 0 && left === 0) db.pragma('wal_checkpoint(TRUNCATE)')
        return given > 0 && left > 0
      })
    },

    async ping() {
      return read(() => {
        const latest = db.prepare('select max(version) from schema_migrations').pluck().get()
        if (latest !== migration)
          throw new StorageError(
            'schema_outdated',
            {},
            `The database is at migration ${latest}, and this server at ${migration}: restart it with the release that migrated the file.`
          )
        return { migration }
      })
    },

    async close() {
      await flushing
      db.close()
    }
  }
}

/** Answers those who have waited long enough for the lock, and returns the others. */
function rejectLate(members: readonly Member[]): Member[] {
  const now = performance.now()
  const locked = new StorageError('unavailable', {}, outages.SQLITE_BUSY)
  for (const { deadline, reject } of members) if (deadline <= now) reject(locked)
  return members.filter(({ deadline }) => deadline > now)
}

function answer(members: readonly Member[], outcomes: readonly Outcome[]): void {
  for (const [index, member] of members.entries()) {
    const outcome = outcomes[index] as Outcome
    if ('error' in outcome) member.reject(outcome.error)
    else member.resolve(outcome.rows)
  }
}

/** The connection, and the newest migration of its schema. */
function openDatabase({ path, maxPages, mayMake = true }: SqliteOptions) {
  return guard(() => {
    if (mayMake) makeFolderAbove(path)
    else if (!existsSync(path)) throw noDatabase(path)
    assertWritable(path)
    assertNoFolder(path)
    const db = connect(path, mayMake)
    try {
      // Before the first statement that writes: what is not ours gets nothing of ours.
      if (inspectSchema(db, path).isNew && !mayMake) throw noDatabase(path)
      // Must come before the first table; has no effect on a file that has one.
      db.pragma('auto_vacuum = INCREMENTAL')
      useWriteAheadLog(db)
      db.pragma('synchronous = FULL')
      db.pragma('foreign_keys = ON')
      db.pragma('trusted_schema = OFF')
      if (maxPages !== undefined) db.pragma(`max_page_count = ${maxPages}`)
      return { db, migration: migrate(db, path) }
    } catch (error) {
      db.close()
      throw error
    }
  })
}

function noDatabase(path: string): StorageError {
  const message = `There is no database of the API at ${path}. Name the file that the server uses.`
  return new StorageError('unavailable', {}, message)
}

function makeFolderAbove(path: string): void {
  try {
    makeFolder(dirname(path))
  } catch (cause) {
    throw cannotOpen(`its folder ${dirname(path)} cannot be made (${codeOf(cause)})`, { cause })
  }
}

function connect(path: string, mayMake: boolean): Connection {
  try {
    return new Database(path, { timeout: lockTimeoutAtStart, fileMustExist: !mayMake })
  } catch (cause) {
    if (codeOf(cause) !== 'SQLITE_CANTOPEN' || existsSync(path)) throw cause
    throw cannotOpen(`the file ${path} cannot be made`, { cause })
  }
}

function assertNoFolder(path: string): void {
  if (path.endsWith('/') || (existsSync(path) && statSync(path).isDirectory()))
    throw cannotOpen(`${path} is a folder. Name a file in it`)
}

function cannotOpen(why: string, details: StorageErrorDetails = {}): StorageError {
  return new StorageError('unavailable', details, `The database file cannot be opened: ${why}.`)
}

/**
 * SQLite would give the files that it makes beside a read-only one the same permissions, and leave
 * them: it would still be read-only when only its own are put right.
 */
function assertWritable(path: string): void {
  for (const file of [path, `${path}-wal`, `${path}-shm`])
    try {
      accessSync(file, constants.W_OK)
    } catch (cause) {
      if (['EACCES', 'EPERM', 'EROFS'].includes(codeOf(cause)))
        throw new StorageError('unavailable', { cause }, `The database file is read-only: ${file}`)
    }
}

/** Nothing else runs yet, so the event loop may wait for another process to finish migrating. */
const lockTimeoutAtStart = 5000

const migrations = readMigrations('sqlite')

const migrationsTable = `
  create table schema_migrations (
    version text primary key, checksum text not null, applied_at text not null
  ) strict`

/** SQLite's own are of no program, and Litestream's may come before the API's. */
const foreignTables = `
  select name from sqlite_schema where type in ('table', 'view')
    and name not glob 'sqlite_*' and name not glob '_litestream_*'`

/** Other statements wait for the lock of another process: this one is refused at once. */
function useWriteAheadLog(db: Connection): void {
  for (;;)
    try {
      db.pragma('journal_mode = WAL')
      return
    } catch (error) {
      if (codeOf(error) !== 'SQLITE_BUSY') throw error
      db.exec('begin exclusive; rollback')
    }
}

/** Brings the schema to this release and returns its newest migration. */
function migrate(db: Connection, path: string): string | null {
  db.transaction(() => {
    const { isNew, pending } = inspectSchema(db, path)
    if (isNew) db.exec(migrationsTable)
    for (const { version, sql, checksum } of pending) {
      db.exec(sql)
      db.prepare('insert into schema_migrations values (?, ?, ?)').run(
        version,
        checksum,
        new Date().toISOString()
      )
    }
  }).immediate()
  db.pragma(`busy_timeout = ${BUSY_TIMEOUT_MS}`)
  return migrations.at(-1)?.version ?? null
}

interface SchemaState {
  /** Whether the file has nothing of the API yet. */
  readonly isNew: boolean
  readonly pending: readonly Migration[]
}

/** @throws StorageError where the database is not for this release to change. */
function inspectSchema(db: Connection, path: string): SchemaState {
  const texts = (sql: string) => db.prepare<[], string>(sql).pluck().all()
  // Other tools have a table of this name, too.
  const columns = texts("select name from pragma_table_info('schema_migrations')")
  const isNew = columns.join() !== 'version,checksum,applied_at'
  if (isNew && texts(foreignTables).length > 0)
    throw cannotOpen(`${path} has tables of another program. Name another file`)
  const applied = isNew
    ? []
    : db.prepare<[], AppliedMigration>('select * from schema_migrations').all()
  const unknown = unknownMigrations(migrations, applied)
  if (unknown.length)
    throw new StorageError(
      'schema_outdated',
      {},
      `The database was migrated by a newer release (${unknown.join(', ')}). Start that release, or use another file.`
    )
  return { isNew, pending: pendingMigrations(migrations, applied) }
}

interface Table {
  get(tenant: TenantId | null, key: string): DriverRow | null
  page(tenant: TenantId | null, query: DriverQuery): DriverPage
  apply(tenant: TenantId, change: DriverChange, version: number): DriverRow | null
}

/** The statements of one resource, prepared when they are first needed. */
function createTable(db: Connection, resource: AnyResource): Table {
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

/** Runs a synchronous read, with SQLite's errors in the port's terms. */
function guard<T>(read: () => T): T {
  try {
    return read()
  } catch (error) {
    throw storageError(error)
  }
}

/** SQLite's primary result codes (https://sqlite.org/rescode.html) that an operator can act on. */
const outages: Readonly<Record<string, string>> = {
  SQLITE_BUSY: 'Another process holds the database lock.',
  SQLITE_LOCKED: 'Another process holds the database lock.',
  SQLITE_FULL: 'The disk, or the quota of the database file, is full.',
  SQLITE_IOERR: 'The disk answered with an error.',
  SQLITE_READONLY: 'The database file, or its folder, is read-only.',
  SQLITE_CANTOPEN: 'The database file cannot be opened.',
  SQLITE_CORRUPT: 'The database file is damaged.',
  SQLITE_NOTADB: 'The file is not an SQLite database.'
}

function storageError(error: unknown): unknown {
  const message = outageOf(error)
  return message ? new StorageError('unavailable', { cause: error }, message) : error
}

function outageOf(error: unknown): string | undefined {
  const [primary = ''] = /^SQLITE_[A-Z]+/.exec(codeOf(error)) ?? []
  return outages[primary]
}

function codeOf(error: unknown): string {
  const code = (error as { code?: unknown } | null)?.code
  return typeof code === 'string' ? code : ''
}
