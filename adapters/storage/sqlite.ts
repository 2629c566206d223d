import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import { resources } from '../../schemas/registry.js'
import type { AnyResource } from '../../schemas/resource.js'
import type { Connection } from './better-sqlite3.js'
import type { Driver, DriverChange, DriverRow } from './driver.js'
import { StorageError } from './errors.js'
import type { TenantId } from './port.js'
import { codeOf, guard, outageOf, outages, storageError } from './sqlite-errors.js'
import { type FileOptions, openDatabase } from './sqlite-file.js'
import { createTable, type Table } from './sqlite-table.js'

export interface SqliteOptions extends FileOptions {
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
  const { db, migration, assertInPlace } = openDatabase(options)
  const { tables, readVersion, writeVersion } = prepareStatements(db)
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
    assertInPlace()
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
        assertInPlace()
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
      try {
        assertInPlace()
      } catch {
        // What was in its log is in the file by now, wherever that is.
      }
      db.close()
    }
  }
}

/** @throws StorageError where a table is not there, once the connection is closed. */
function prepareStatements(db: Connection) {
  try {
    return {
      tables: new Map(resources.map((resource) => [resource.name, createTable(db, resource)])),
      readVersion: db.prepare('select value from row_version').pluck(),
      writeVersion: db.prepare('update row_version set value = ?')
    }
  } catch (cause) {
    db.close()
    if (codeOf(cause) !== 'SQLITE_ERROR') throw storageError(cause)
    throw new StorageError(
      'schema_outdated',
      { cause },
      'The database lacks tables or columns that its migrations made: restore it whole.'
    )
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
