import pg from 'pg'
import { reasonOf } from '../reason.js'
import { StorageError } from './errors.js'
import {
  type AppliedMigration,
  changedMigrations,
  type Migration,
  pendingMigrations,
  readMigrations,
  unknownMigrations
} from './migrations.js'
import { stateOf, unavailable } from './postgres-connections.js'
import { assertEncoding } from './schema-level.js'

export interface MigrateOptions {
  /** The database, as a role that may create tables in its schema `public`. */
  readonly url: string
  /** Told of each migration once it is stored. */
  readonly onApplied?: (version: string) => void
}

/** Where a migration stands in a database. */
export interface MigrationStatus {
  readonly version: string
  /** `changed`: the file is not the one that was applied. `newer`: of a release after this one. */
  readonly state: 'applied' | 'pending' | 'changed' | 'newer'
  /** In UTC, ISO 8601. */
  readonly appliedAt: string | null
}

interface AppliedRow extends AppliedMigration {
  readonly applied_at: string
}

/** Any number that no other user of the database's advisory locks would take. */
const LOCK = 7_264_811_936_215n
/** A server that accepts connections and says nothing holds up no deployment. */
const CONNECT_TIMEOUT_MS = 10_000

/**
 * Applies what is missing, each file in a transaction of its own, and returns their versions.
 * Several may run at once: each waits for the other's file.
 * @throws StorageError `schema_outdated` where an applied file was changed since, `unavailable` for a
 * database that is not in UTF-8.
 */
export async function migratePostgres({ url, onApplied }: MigrateOptions): Promise<string[]> {
  return withClient(url, async (client) => {
    const { rows } = await client.query<{ encoding: string }>(
      "select current_setting('server_encoding') as encoding"
    )
    assertEncoding(rows[0]?.encoding as string)
    const applied: string[] = []
    for (;;) {
      const version = await applyNext(client)
      if (version === null) return applied
      applied.push(version)
      onApplied?.(version)
    }
  })
}

/** Every migration that this release or the database knows, oldest first. */
export async function migrationStatus(url: string): Promise<MigrationStatus[]> {
  const known = readMigrations('postgres')
  const applied = await withClient(url, readApplied)
  const rows = new Map(applied.map((row) => [row.version, row]))
  const changed = new Set(changedMigrations(known, applied))
  const states = known.map(({ version }): MigrationStatus => {
    const row = rows.get(version)
    const state = !row ? 'pending' : changed.has(version) ? 'changed' : 'applied'
    return { version, state, appliedAt: row?.applied_at ?? null }
  })
  const newer = unknownMigrations(known, applied).map(
    (version): MigrationStatus => ({
      version,
      state: 'newer',
      appliedAt: rows.get(version)?.applied_at ?? null
    })
  )
  return [...states, ...newer]
}

/** The SQL that is missing, to be read or run by other means. Without a database, all of it. */
export async function migrationSql(url?: string): Promise<string> {
  const known = readMigrations('postgres')
  const applied = url === undefined ? [] : await withClient(url, readApplied)
  return pendingMigrations(known, applied)
    .map(({ version, sql }) => `-- ${version}\n${sql}`)
    .join('\n')
}

/** One transaction: the lock ends with it, which transaction-mode poolers need. */
async function applyNext(client: pg.Client): Promise<string | null> {
  await client.query('begin')
  try {
    await client.query('select pg_advisory_xact_lock($1)', [LOCK])
    const applied = await readApplied(client)
    const [next] = pendingMigrations(readMigrations('postgres'), applied)
    if (next) await applyMigration(client, next)
    await client.query('commit')
    return next?.version ?? null
  } catch (error) {
    await client.query('rollback').catch(() => {})
    throw error
  }
}

async function applyMigration(
  client: pg.Client,
  { version, sql, checksum }: Migration
): Promise<void> {
  await client.query(sql).catch((cause) => {
    const message = `The migration ${version} failed, and nothing of it is stored: ${reasonOf(cause)}`
    throw new StorageError('unavailable', { cause }, message)
  })
  const { rowCount } = await client.query(
    'update public.schema_migrations set checksum = $2 where version = $1',
    [version, checksum]
  )
  if (rowCount !== 1)
    throw new StorageError(
      'schema_outdated',
      {},
      `migrations/postgres/${version}.sql does not record itself.`
    )
}

async function readApplied(client: pg.Client): Promise<AppliedRow[]> {
  const { rows } = await client.query<{ exists: boolean }>(
    "select to_regclass('public.schema_migrations') is not null as exists"
  )
  if (!rows[0]?.exists) return []
  const applied = await client.query<AppliedRow>(
    `select version, checksum,
        to_char(applied_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as applied_at
       from public.schema_migrations order by version`
  )
  return applied.rows
}

async function withClient<T>(url: string, run: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = await connect(url)
  let broken = false
  client.on('error', () => {
    broken = true
  })
  try {
    return await run(client)
  } catch (error) {
    throw broken || stateOf(error) ? unavailable(error) : error
  } finally {
    await client.end()
  }
}

async function connect(connectionString: string): Promise<pg.Client> {
  try {
    const client = new pg.Client({
      connectionString,
      application_name: 'workflow-api migrate',
      connectionTimeoutMillis: CONNECT_TIMEOUT_MS
    })
    // What breaks fails the statement under way, too.
    client.on('error', () => {})
    await client.connect()
    return client
  } catch (error) {
    throw unavailable(error)
  }
}
