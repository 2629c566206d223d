import { accessSync, constants, existsSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import { makeFolder } from '../durable-folders.js'
import Database, { type Connection } from './better-sqlite3.js'
import { StorageError, type StorageErrorDetails } from './errors.js'
import {
  type AppliedMigration,
  type Migration,
  pendingMigrations,
  readMigrations,
  unknownMigrations
} from './migrations.js'
import { codeOf, guard } from './sqlite-errors.js'

export interface FileOptions {
  /** The database file; folders above it are made. */
  readonly path: string
  /** The file may not grow beyond this many pages of 4096 bytes. Unlimited by default. */
  readonly maxPages?: number
  /** Whether a database is made where there is none. True by default. */
  readonly mayMake?: boolean
}

/** SQLite waits for a lock by blocking the event loop: briefly, and the rest is up to a timer. */
const BUSY_TIMEOUT_MS = 50
const MOST_LOG_BYTES = 64 * 1024 * 1024

/** The connection, the newest migration of its schema, and a check to make before what is to last. */
export function openDatabase({ path, maxPages, mayMake = true }: FileOptions) {
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
      // A reader that kept the log from its beginning may have made it as large as it likes.
      db.pragma(`journal_size_limit = ${MOST_LOG_BYTES}`)
      db.pragma('foreign_keys = ON')
      db.pragma('trusted_schema = OFF')
      if (maxPages !== undefined) db.pragma(`max_page_count = ${maxPages}`)
      return { db, migration: migrate(db, path), assertInPlace: placeOf(db, path) }
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

/** With its log, SQLite goes on with a file that is gone, or that another has the name of, and tells nobody. */
function placeOf(db: Connection, path: string): () => void {
  const look = () => statSync(path, { bigint: true, throwIfNoEntry: false })
  // In memory there is none.
  const opened = look()

  function isElsewhere(): boolean {
    try {
      const now = look()
      return now?.ino !== opened?.ino || now?.dev !== opened?.dev
    } catch {
      // Who may not look into the folder any more has the file all the same.
      return false
    }
  }

  return () => {
    if (!isElsewhere()) return
    // Into the file that it is of: the next one of this name would be damaged by what is left in the log.
    db.pragma('wal_checkpoint(TRUNCATE)')
    const message = `The database file ${path} was moved, removed or replaced. Put it back, or restart the server.`
    throw new StorageError('unavailable', {}, message)
  }
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
