import { existsSync } from 'node:fs'
import {
  chmod,
  copyFile,
  mkdir,
  mkdtemp,
  open,
  readFile,
  rename,
  rm,
  stat,
  writeFile
} from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { mock } from 'node:test'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { packageFile } from '../../adapters/package-files.js'
import Database, { type Connection } from '../../adapters/storage/better-sqlite3.js'
import type { Driver } from '../../adapters/storage/driver.js'
import { StorageError } from '../../adapters/storage/errors.js'
import type { Storage, TenantId } from '../../adapters/storage/port.js'
import { openSqlite, type SqliteOptions } from '../../adapters/storage/sqlite.js'
import { createStorage } from '../../adapters/storage/storage.js'
import { templates } from '../../schemas/templates.js'
import { runChild } from '../support/child-process.js'
import { openWithConnection } from '../support/sqlite-connection.js'
import { lockElsewhere } from '../support/sqlite-lock.js'
import { createTenant } from '../support/stored-samples.js'

async function databasePath(t: Test): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'faults-'))
  t.teardown(() => rm(folder, { recursive: true }))
  return join(folder, 'app.db')
}

function openStorage(t: Test, options: SqliteOptions): Storage {
  return ownStorage(t, openSqlite(options))
}

function ownStorage(t: Test, driver: Driver): Storage {
  const storage = createStorage(driver)
  t.teardown(() => storage.close())
  return storage
}

/** A migrated database with one tenant and nothing that holds it open. */
async function preparedDatabase(t: Test): Promise<{ path: string; tenant: TenantId }> {
  const path = await databasePath(t)
  const storage = createStorage(openSqlite({ path }))
  const tenant = await createTenant(storage)
  await storage.close()
  return { path, tenant }
}

/** Runs before each statement that the driver gives to `exec`; throws in its place. */
function interceptExec(db: Connection, before: (sql: string) => void): void {
  const { exec } = Database.prototype
  db.exec = (sql) => {
    before(sql)
    return exec.call(db, sql)
  }
}

function sqliteError(code: string): Error {
  return new Database.SqliteError(`made by the test: ${code}`, code)
}

function insertTemplate(storage: Storage, tenant: TenantId, id: string, description = '') {
  const row = { id, name: id, description }
  return storage.commit({ tenant, changes: [{ op: 'insert', resource: templates, row }] })
}

async function templateIds(storage: Storage, tenant: TenantId): Promise<string[]> {
  const { rows } = await storage.list({ resource: templates, tenant }, { limit: 1000 })
  return rows.map(({ id }) => id).sort()
}

/** Commits at once; tells which were acknowledged, and asserts why the others were not. */
async function commitAll(
  t: Test,
  storage: Storage,
  tenant: TenantId,
  rows: readonly (readonly [id: string, size: number])[]
): Promise<string[]> {
  const acknowledged: string[] = []
  await Promise.all(
    rows.map(([id, size]) =>
      insertTemplate(storage, tenant, id, 'x'.repeat(size)).then(
        () => acknowledged.push(id),
        (error) => t.match(error, { name: 'StorageError', code: 'unavailable' }, id)
      )
    )
  )
  return acknowledged.sort()
}

/** Permissions do not bind the superuser, so that a test run by one must step down for a moment. */
function stepDown(): { readonly stepUp: () => void } {
  const isSuperuser = process.geteuid?.() === 0
  if (isSuperuser) process.seteuid?.(65_534)
  return { stepUp: () => void (isSuperuser && process.seteuid?.(0)) }
}

function withoutPrivileges<T>(work: () => T): T {
  const { stepUp } = stepDown()
  try {
    return work()
  } finally {
    stepUp()
  }
}

t.test('the file and the connection are set up to lose nothing', async (t) => {
  const { driver, db } = openWithConnection({ path: await databasePath(t) })
  t.teardown(() => driver.close())
  const pragma = (name: string) => db.pragma(name, { simple: true })
  t.equal(pragma('journal_mode'), 'wal')
  t.equal(pragma('synchronous'), 2, 'FULL')
  t.equal(pragma('auto_vacuum'), 2, 'INCREMENTAL')
  t.equal(pragma('foreign_keys'), 1)
  t.equal(pragma('trusted_schema'), 0)
  t.equal(pragma('journal_size_limit'), 64 * 1024 * 1024)
  t.ok((pragma('busy_timeout') as number) < 100, 'a wait for the lock hardly blocks the event loop')
  const tables = db.pragma('table_list') as { name: string; type: string; strict: number }[]
  const ours = tables.filter(({ name, type }) => type === 'table' && !name.startsWith('sqlite_'))
  t.strictSame(
    ours.filter(({ strict }) => !strict),
    [],
    'tables check the types of their columns'
  )
})

t.test('commits of one turn share a transaction and are answered after it', async (t) => {
  const { driver, db } = openWithConnection({ path: await databasePath(t) })
  const storage = ownStorage(t, driver)
  const tenant = await createTenant(storage)
  const events: string[] = []
  interceptExec(db, (sql) => {
    if (!/savepoint|release/.test(sql)) events.push(sql)
  })
  const ids = Array.from({ length: 20 }, (_, i) => `t${i}`)
  await Promise.all(
    ids.map((id) => insertTemplate(storage, tenant, id).then(() => events.push('answered')))
  )
  t.strictSame(events, ['begin immediate', 'commit', ...ids.map(() => 'answered')])

  events.length = 0
  await insertTemplate(storage, tenant, 'later')
  await insertTemplate(storage, tenant, 'last')
  t.strictSame(events, ['begin immediate', 'commit', 'begin immediate', 'commit'])
})

t.test('a commit waits while each turn brings others, but not for ever', async (t) => {
  const { driver, db } = openWithConnection({ path: await databasePath(t) })
  const storage = ownStorage(t, driver)
  const tenant = await createTenant(storage)
  const events: string[] = []
  interceptExec(db, (sql) => events.push(sql))
  const writes: Promise<unknown>[] = []
  const write = () => {
    const written = insertTemplate(storage, tenant, `t${writes.length}`)
    writes.push(written.then(() => events.push('answered')))
  }
  write()
  while (!events.includes('answered') && writes.length < 50) {
    write()
    await nextTurn()
  }
  await Promise.all(writes)
  t.strictSame(events.slice(0, 2), ['begin immediate', 'commit'])
  const next = events.indexOf('begin immediate', 1)
  const together = (next < 0 ? events.length : next) - 2
  t.ok(together >= 3 && together <= 10, `${together} commits of several turns share a transaction`)
})

t.test('a commit that fails does not hurt the others of its group', async (t) => {
  const { driver, db } = openWithConnection({ path: await databasePath(t) })
  const storage = ownStorage(t, driver)
  const tenant = await createTenant(storage)
  let transactions = 0
  interceptExec(db, (sql) => {
    if (sql === 'commit') transactions++
  })
  const failing = { op: 'delete', resource: templates, key: 'nothing' } as const
  const row = { id: 'undone', name: 'undone', description: '' }
  const nameless = { id: 'nameless', name: null as never, description: '' }
  const outcomes = await Promise.allSettled([
    insertTemplate(storage, tenant, 'a'),
    storage.commit({ tenant, changes: [{ op: 'insert', resource: templates, row }, failing] }),
    insertTemplate(storage, tenant, 'a'),
    storage.commit({ tenant, changes: [{ op: 'insert', resource: templates, row: nameless }] }),
    insertTemplate(storage, tenant, 'b')
  ])
  t.equal(transactions, 1)
  t.strictSame(
    outcomes.map((each) => (each.status === 'rejected' ? each.reason.code : 'stored')),
    ['stored', 'not_found', 'conflict', 'SQLITE_CONSTRAINT_NOTNULL', 'stored']
  )
  t.strictSame(await templateIds(storage, tenant), ['a', 'b'])
})

t.test('a full file in the middle of a group', async (t) => {
  const { path, tenant } = await preparedDatabase(t)
  const pages = (await stat(path)).size / 4096
  const expected: string[] = []
  let refused = 0
  // With every room from none to enough, so that each statement of the group is the one to fail.
  for (let room = 0; room < 24; room++) {
    const storage = createStorage(openSqlite({ path, maxPages: pages + room }))
    const group = [1000, 9000, 100, 60_000, 3000].map((size, i) => [`r${room}.${i}`, size] as const)
    const acknowledged = await commitAll(t, storage, tenant, group)
    expected.push(...acknowledged)
    refused += group.length - acknowledged.length
    t.strictSame(await templateIds(storage, tenant), [...expected].sort(), 'before it is closed')
    await storage.close()
    const again = createStorage(openSqlite({ path }))
    t.strictSame(await templateIds(again, tenant), [...expected].sort(), 'and opened again')
    await again.close()
  }
  t.ok(refused > 0, 'some did not fit')
  t.ok(expected.length > 0, 'some did')
})

t.test('a file that is full goes on when there is room', async (t) => {
  const { path, tenant } = await preparedDatabase(t)
  const pages = (await stat(path)).size / 4096
  const storage = openStorage(t, { path, maxPages: pages + 16 })
  await insertTemplate(storage, tenant, 'first', 'x'.repeat(30_000))
  await t.rejects(insertTemplate(storage, tenant, 'second', 'x'.repeat(60_000)), {
    code: 'unavailable',
    message: /full/,
    cause: { code: 'SQLITE_FULL' }
  })
  const remove = { op: 'delete', resource: templates, key: 'first' } as const
  await storage.commit({ tenant, changes: [remove] })
  await insertTemplate(storage, tenant, 'third', 'x'.repeat(30_000))
  t.strictSame(await templateIds(storage, tenant), ['third'])
})

t.test('writes that the file system refuses in a group and in COMMIT', async (t) => {
  const { path, tenant } = await preparedDatabase(t)
  const program = fileURLToPath(packageFile('test/support/limited-writer.ts'))
  const loader = import.meta.resolve('tsx')
  // 512 bytes each: room for some groups in the write-ahead log, which starts empty.
  const limit = 'ulimit -f 400 && exec "$0" "$@"'
  const args = ['-c', limit, process.execPath, '--import', loader, program, path, tenant]
  const { NODE_OPTIONS: _, ...env } = process.env
  const output = await runChild('sh', args, { env })
  const told = (word: string) =>
    [...output.matchAll(new RegExp(`^${word} (t[\\d.]+)`, 'gm'))].map(([, id]) => id).sort()

  t.match(output, /^commit failed SQLITE_(IOERR|FULL)/m, 'it was COMMIT that failed')
  t.notMatch(output, /^failed .* (?!unavailable)\w+$/m, 'clearly')
  t.match(output, /^failed t0.0 unavailable$/m, 'a group that was refused half-way fails whole')
  t.not(told('stored').length, 0)
  t.strictSame(told('listed'), told('stored'), 'as the same process sees it')
  const storage = openStorage(t, { path })
  t.strictSame(await templateIds(storage, tenant), told('stored'), 'as the next one does')
})

t.test('a COMMIT that fails and leaves its transaction open', async (t) => {
  const path = await databasePath(t)
  const { driver, db } = openWithConnection({ path })
  const storage = ownStorage(t, driver)
  const tenant = await createTenant(storage)
  let fault: string | undefined = 'SQLITE_IOERR_FSYNC'
  const statements: string[] = []
  interceptExec(db, (sql) => {
    statements.push(sql)
    if (sql === 'commit' && fault && statements.filter((each) => each === sql).length === 1)
      throw sqliteError(fault)
  })
  t.strictSame(
    await commitAll(t, storage, tenant, [
      ['a', 1],
      ['b', 1]
    ]),
    []
  )
  t.strictSame(
    statements,
    ['begin immediate', 'commit', 'rollback'],
    'a second might only look well'
  )
  statements.length = 0
  fault = 'SQLITE_BUSY'
  t.strictSame(await commitAll(t, storage, tenant, [['c', 1]]), [], 'and is not tried again')
  fault = undefined
  t.strictSame(await commitAll(t, storage, tenant, [['d', 1]]), ['d'])
  const again = openStorage(t, { path })
  t.strictSame(await templateIds(again, tenant), ['d'])
})

t.test('a ROLLBACK that fails, too', async (t) => {
  const path = await databasePath(t)
  const { driver, db } = openWithConnection({ path })
  const storage = ownStorage(t, driver)
  const tenant = await createTenant(storage)
  let faulty = true
  interceptExec(db, (sql) => {
    if (faulty && /^(commit|rollback)$/.test(sql)) throw sqliteError('SQLITE_IOERR')
  })
  for (const id of ['a', 'b'])
    t.strictSame(await commitAll(t, storage, tenant, [[id, 1]]), [], 'each is answered')
  const unread = { name: 'StorageError', code: 'unavailable' }
  await t.rejects(templateIds(storage, tenant), unread, 'no read shows what is to be undone')
  await t.rejects(storage.ping(), unread)
  faulty = false
  t.strictSame(await templateIds(storage, tenant), [])
  t.strictSame(await commitAll(t, storage, tenant, [['c', 1]]), ['c'])
  const again = openStorage(t, { path })
  t.strictSame(await templateIds(again, tenant), ['c'])
})

t.test('a transaction that SQLite ends by itself takes the whole group along', async (t) => {
  const path = await databasePath(t)
  const { driver, db } = openWithConnection({ path })
  const storage = ownStorage(t, driver)
  const tenant = await createTenant(storage)
  const { exec } = Database.prototype
  let members = 0
  interceptExec(db, (sql) => {
    if (sql !== 'release member' || ++members !== 2) return
    exec.call(db, 'rollback')
    throw sqliteError('SQLITE_IOERR')
  })
  // The refused one is why each has a savepoint.
  const group = ['a', 'b', 'c', 'a'].map((id) => [id, 1] as const)
  t.strictSame(await commitAll(t, storage, tenant, group), [])
  const again = openStorage(t, { path })
  t.strictSame(await templateIds(again, tenant), [])
})

t.test('a write lock of another process is waited for while the event loop runs', async (t) => {
  const { path, tenant } = await preparedDatabase(t)
  const storage = openStorage(t, { path, lockTimeout: 60_000 })
  const unlock = await lockElsewhere(t, path)
  let answered = false
  const commits = ['a', 'b'].map((id) =>
    insertTemplate(storage, tenant, id).then(() => {
      answered = true
    })
  )
  for (let turn = 0; turn < 20; turn++) {
    t.strictSame(await templateIds(storage, tenant), [], 'reads go on')
    await new Promise((resolve) => setTimeout(resolve, 1))
  }
  t.notOk(answered, 'commits wait')
  await unlock()
  await Promise.all(commits)
  t.strictSame(await templateIds(storage, tenant), ['a', 'b'])
})

t.test('a write lock that is held too long', async (t) => {
  const { path, tenant } = await preparedDatabase(t)
  const storage = openStorage(t, { path, lockTimeout: 1 })
  const unlock = await lockElsewhere(t, path)
  const outcomes = await Promise.allSettled(
    ['a', 'b'].map((id) => insertTemplate(storage, tenant, id))
  )
  for (const outcome of outcomes)
    t.match(outcome, { status: 'rejected', reason: { code: 'unavailable', message: /lock/ } })
  await unlock()
  t.strictSame(await templateIds(storage, tenant), [], 'nothing is stored late')
  await insertTemplate(storage, tenant, 'c')
  t.strictSame(await templateIds(storage, tenant), ['c'])
})

t.test('closing waits for the commits that wait for the lock', async (t) => {
  const { path, tenant } = await preparedDatabase(t)
  const storage = openStorage(t, { path, lockTimeout: 60_000 })
  const unlock = await lockElsewhere(t, path)
  const commit = insertTemplate(storage, tenant, 'a')
  const closed = storage.close()
  await unlock()
  await Promise.all([commit, closed])
  t.strictSame(await templateIds(openStorage(t, { path }), tenant), ['a'])
})

t.test('a read-only file', async (t) => {
  const { path } = await preparedDatabase(t)
  await chmod(join(path, '..'), 0o777)
  await chmod(path, 0o444)
  t.throws(() => withoutPrivileges(() => openSqlite({ path })), {
    name: 'StorageError',
    code: 'unavailable',
    message: /read-only/,
    cause: Error
  })
})

for (const [how, replace] of [
  ['moved away', () => Promise.resolve()],
  ['replaced', (path: string) => copyFile(`${path}.old`, path)]
] as const)
  t.test(`a file that is ${how} under the storage`, async (t) => {
    const { path, tenant } = await preparedDatabase(t)
    const storage = openStorage(t, { path })
    await insertTemplate(storage, tenant, 'before')
    await rename(path, `${path}.old`)
    await replace(path)
    const gone = { code: 'unavailable', message: /was moved, removed or replaced/ }
    await t.rejects(insertTemplate(storage, tenant, 'lost'), gone)
    await t.rejects(storage.ping(), gone)
    const elsewhere = openStorage(t, { path: await copyOf(t, `${path}.old`) })
    t.strictSame(
      await templateIds(elsewhere, tenant),
      ['before'],
      'the file is whole without its log'
    )
    if (existsSync(path)) {
      const other = openStorage(t, { path: await copyOf(t, path, `${path}-wal`) })
      t.strictSame(
        await templateIds(other, tenant),
        [],
        'and the log has nothing for the other one'
      )
    }
    await rename(`${path}.old`, path)
    await storage.ping()
    await insertTemplate(storage, tenant, 'after')
    t.strictSame(await templateIds(storage, tenant), ['after', 'before'])
  })

t.test('a file that is replaced under a storage that is closed then', async (t) => {
  const { path, tenant } = await preparedDatabase(t)
  const storage = createStorage(openSqlite({ path }))
  await insertTemplate(storage, tenant, 'before')
  await rename(path, `${path}.old`)
  await copyFile(`${path}.old`, path)
  await storage.close()
  t.strictSame(await templateIds(openStorage(t, { path }), tenant), [])
  t.strictSame(await templateIds(openStorage(t, { path: `${path}.old` }), tenant), ['before'])
})

/** A file of another name, and its log. */
async function copyOf(t: Test, path: string, log?: string): Promise<string> {
  const copy = await databasePath(t)
  await copyFile(path, copy)
  if (log) await copyFile(log, `${copy}-wal`)
  return copy
}

t.test('a file whose folder may no longer be looked into', async (t) => {
  const { path, tenant } = await preparedDatabase(t)
  const folder = join(path, '..')
  const storage = openStorage(t, { path })
  await chmod(folder, 0o000)
  const { stepUp } = stepDown()
  const stored = await insertTemplate(storage, tenant, 'kept').finally(stepUp)
  await chmod(folder, 0o700)
  t.match(stored, [{ id: 'kept' }])
})

t.test('a file whose settings somebody has changed cannot be made smaller', async (t) => {
  const { path, tenant } = await preparedDatabase(t)
  changeSchema(path, 'pragma journal_mode = DELETE; pragma auto_vacuum = NONE; vacuum')
  const storage = openStorage(t, { path })
  await insertTemplate(storage, tenant, 'long', 'x'.repeat(100_000))
  const remove = { op: 'delete', resource: templates, key: 'long' } as const
  await storage.commit({ tenant, changes: [remove] })
  t.equal(await storage.compact(), false, 'and so there is no more to do')
})

t.test('a file that is no database', async (t) => {
  const path = await databasePath(t)
  await writeFile(path, 'Dear diary, '.repeat(1000))
  t.throws(() => openSqlite({ path }), { code: 'unavailable', message: /not an SQLite database/ })
  t.equal(await readFile(path, 'utf8'), 'Dear diary, '.repeat(1000), 'it is left as it was')
})

t.test('a database of another program', async (t) => {
  for (const sql of [
    'create table users (id integer primary key)',
    'create view answer as select 42',
    'create table schema_migrations (version text primary key)',
    "create table schema_migrations (version text); insert into schema_migrations values ('1')"
  ]) {
    const path = await databasePath(t)
    changeSchema(path, sql)
    const before = await readFile(path)
    for (const mayMake of [true, false])
      t.throws(() => openSqlite({ path, mayMake }), {
        name: 'StorageError',
        code: 'unavailable',
        message: `The database file cannot be opened: ${path} has tables of another program. Name another file.`
      })
    t.ok(before.equals(await readFile(path)), `it is left as it was: ${sql}`)
  }
})

t.test('a file that has nothing but tables of SQLite and Litestream', async (t) => {
  const path = await databasePath(t)
  changeSchema(
    path,
    `create table once (id integer primary key autoincrement);
     drop table once;
     create table _litestream_seq (id integer primary key, seq integer)`
  )
  await createTenant(openStorage(t, { path }))
})

t.test('a new file that another process locks while its mode is set', async (t) => {
  const path = await databasePath(t)
  const { pragma } = Database.prototype
  t.teardown(() => mock.restoreAll())
  let refused = 0
  mock.method(Database.prototype, 'pragma', function (this: Connection, ...given: [string]) {
    if (refused > 0 || !given[0].startsWith('journal_mode')) return pragma.apply(this, given)
    const other = new Database(path)
    other.exec('begin immediate')
    try {
      return pragma.apply(this, given)
    } catch (error) {
      refused++
      throw error
    } finally {
      other.close()
    }
  })
  await createTenant(openStorage(t, { path }))
  t.equal(refused, 1)
})

t.test('a path that cannot be a file', async (t) => {
  const path = await databasePath(t)
  await mkdir(path)
  t.throws(() => openSqlite({ path }), {
    name: 'StorageError',
    code: 'unavailable',
    message: `The database file cannot be opened: ${path} is a folder. Name a file in it.`
  })
  const folder = join(path, 'new/')
  t.throws(() => openSqlite({ path: folder }), {
    message: `The database file cannot be opened: ${folder} is a folder. Name a file in it.`
  })
  await writeFile(join(path, 'file'), '')
  t.throws(() => openSqlite({ path: join(path, 'file', 'app.db') }), {
    name: 'StorageError',
    code: 'unavailable',
    message: /cannot be opened: its folder \S+ cannot be made \((ENOTDIR|EEXIST)\)/
  })
})

t.test('a damaged schema', async (t) => {
  const { path } = await preparedDatabase(t)
  await overwrite(path, 100, 3900)
  t.throws(() => openSqlite({ path }), { code: 'unavailable', message: /damaged/ })
})

t.test('a table that is gone', async (t) => {
  for (const harm of ['drop table leases', 'alter table templates drop column description']) {
    const { path } = await preparedDatabase(t)
    const db = new Database(path)
    db.exec(harm)
    db.close()
    t.throws(() => openSqlite({ path }), { code: 'schema_outdated', message: /lacks tables/ }, harm)
    // The last connection to close takes the log away.
    t.notOk(existsSync(`${path}-wal`), 'nothing stays open')
  }
})

t.test('damaged rows', async (t) => {
  const { path, tenant } = await preparedDatabase(t)
  const filled = createStorage(openSqlite({ path }))
  for (let i = 0; i < 40; i++) await insertTemplate(filled, tenant, `t${i}`, 'x'.repeat(5000))
  await filled.close()
  const db = new Database(path)
  const pages = db
    .prepare<[], number>("select rootpage from sqlite_schema where tbl_name = 'templates'")
    .pluck()
    .all()
  db.close()
  for (const page of pages) await overwrite(path, (page - 1) * 4096, 4096)
  const storage = openStorage(t, { path })
  const damaged = { name: 'StorageError', code: 'unavailable', message: /damaged/ }
  await t.rejects(templateIds(storage, tenant), damaged, 'list')
  await t.rejects(storage.get({ resource: templates, tenant }, 't1'), damaged, 'get')
  await t.rejects(insertTemplate(storage, tenant, 'new'), damaged, 'commit')
})

async function overwrite(path: string, from: number, length: number): Promise<void> {
  const file = await open(path, 'r+')
  await file.write(Buffer.alloc(length, 0xff), 0, length, from)
  await file.close()
}

t.test('a migration that was changed after it was applied', async (t) => {
  const { path } = await preparedDatabase(t)
  changeSchema(path, "update schema_migrations set checksum = 'another'")
  t.throws(() => openSqlite({ path }), {
    name: 'StorageError',
    code: 'schema_outdated',
    message: /other migrations of these names: \d+_init, .* Start the release that made it/
  })
  assertReleased(t, path)
})

t.test('a database of a newer release', async (t) => {
  const { path } = await preparedDatabase(t)
  const running = openStorage(t, { path })
  await running.ping()
  changeSchema(path, "insert into schema_migrations values ('99991231000000_next', 'x', 'now')")
  await t.rejects(running.ping(), { code: 'schema_outdated' }, 'a running server is not ready')
  await running.close()
  changeSchema(path, 'pragma journal_mode = DELETE')
  const before = await readFile(path)
  t.throws(() => openSqlite({ path }), {
    name: 'StorageError',
    code: 'schema_outdated',
    message: /newer release \(99991231000000_next\)/
  })
  t.ok(before.equals(await readFile(path)), 'it is left as it was')
  assertReleased(t, path)
})

function changeSchema(path: string, sql: string): void {
  const db = new Database(path)
  db.exec(sql)
  db.close()
}

/** The journal mode can only be changed where no other connection is open. */
function assertReleased(t: Test, path: string): void {
  const db = new Database(path, { timeout: 0 })
  t.equal(db.pragma('journal_mode = DELETE', { simple: true }), 'delete', 'the file is let go')
  db.close()
}

t.test('a migration that fails is not half applied', async (t) => {
  const path = await databasePath(t)
  t.throws(() => openSqlite({ path, maxPages: 20 }), { code: 'unavailable', message: /full/ })
  const db = new Database(path)
  t.strictSame(
    db.prepare("select name from sqlite_schema where name = 'tenants'").all(),
    [],
    'no table is left behind'
  )
  db.close()
  const storage = openStorage(t, { path })
  await createTenant(storage)
})

/** Runs a program in a process of its own, which imports `module` as `given`. */
function runElsewhere(module: string, program: string, ...args: string[]): Promise<string> {
  const source = `const given = await import(${JSON.stringify(packageFile(module).href)}); ${program}`
  const { NODE_OPTIONS: _, ...env } = process.env
  const loader = import.meta.resolve('tsx')
  const options = ['--import', loader, '--input-type=module', '-e', source]
  return runChild(process.execPath, [...options, ...args], { env })
}

t.test('two processes may open a new file at once', async (t) => {
  const path = await databasePath(t)
  const program = `
    const driver = given.openSqlite({ path: process.argv[1] })
    console.log(JSON.stringify(await driver.ping()))
    await driver.close()`
  const outputs = await Promise.all(
    [1, 2, 3].map(() => runElsewhere('adapters/storage/sqlite.ts', program, path))
  )
  const [first] = outputs
  for (const output of outputs) t.equal(output, first)
  t.match(first, /migration/)
})

t.test('a copy that another process makes beside writes has all that were there', async (t) => {
  const path = await databasePath(t)
  const storage = openStorage(t, { path })
  const tenant = await createTenant(storage)
  for (let i = 0; i < 100; i++) await insertTemplate(storage, tenant, `before-${i}`)
  const program = `new given.default(process.argv[1]).prepare('vacuum into ?').run(process.argv[2])`
  const module = 'adapters/storage/better-sqlite3.ts'
  let copied = false
  const copying = runElsewhere(module, program, path, `${path}.copy`).finally(() => {
    copied = true
  })
  for (let i = 0; !copied; i++) await insertTemplate(storage, tenant, `meanwhile-${i}`)
  await copying
  const copy = openStorage(t, { path: `${path}.copy` })
  for (let i = 0; i < 100; i++)
    t.ok(await copy.get({ resource: templates, tenant }, `before-${i}`), `row ${i}`)
})

t.test('an error that is not the storage’s is passed on as it is', async (t) => {
  const storage = openStorage(t, { path: await databasePath(t) })
  const tenant = await createTenant(storage)
  const row = { id: 'nameless', name: null as unknown as string, description: '' }
  const insert = { op: 'insert', resource: templates, row } as const
  const error = await storage.commit({ tenant, changes: [insert] }).catch((reason) => reason)
  t.notOk(error instanceof StorageError, 'a mistake of the caller is no state of the storage')
  t.match(error, { code: 'SQLITE_CONSTRAINT_NOTNULL' })
})
