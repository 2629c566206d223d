import { setTimeout as sleep } from 'node:timers/promises'
import type pg from 'pg'
import { resources } from '../../schemas/registry.js'
import type { AnyResource } from '../../schemas/resource.js'
import { createGroups } from './commit-groups.js'
import type { Driver, DriverChange, DriverRow } from './driver.js'
import { StorageError } from './errors.js'
import { type AppliedMigration, readMigrations, unknownMigrations } from './migrations.js'
import type { TenantId } from './port.js'
import {
  type ConnectionOptions,
  openConnections,
  type SqlRow,
  type Statement,
  stateOf,
  Unanswered,
  unavailable,
  withDefaults
} from './postgres-connections.js'
import { getStatement, pageRead } from './postgres-reads.js'
import { assertEncoding, assertSchemaLevel, namingMigrations } from './schema-level.js'
import {
  decodeRow,
  decodeStored,
  encodeChanges,
  meaningOf,
  type RawRow,
  refusal
} from './sql-functions.js'
import { trackRequests } from './track-requests.js'

/** A commit as `apply_changes` takes it, the changes in JSON. */
interface EncodedCommit {
  readonly tenant: TenantId
  readonly changes: string
}

/**
 * Groups of commits, by characters of JSON. Each commit is a subtransaction, and of more than 64 the
 * server no longer keeps in memory whose they are.
 */
const GROUP_LIMITS = { groups: 2, members: 32, size: 256 * 1024 }
/** What is larger gains nothing by company. */
const LARGEST_IN_GROUP = 64 * 1024
/** Of a commit in a group: each may have to wait for a lock. */
const MOST_CHANGES_IN_GROUP = 4
/** How long a group waits for locks, in milliseconds, before its commits are tried one by one. */
const GROUP_LOCK_TIMEOUT_MS = 100
/** Tries of a commit that the server rolls back for a deadlock or a serialization failure. */
const COMMIT_TRIES = 5
const RETRY_MS = 20

/**
 * A pool of connections. A read and a commit take one round trip each; commits run in
 * `apply_changes`. Commits that only insert, and arrive at about the same time, share one.
 * @throws StorageError `schema_outdated` where migrations are missing: it applies none itself.
 */
export async function openPostgres(options: ConnectionOptions): Promise<Driver> {
  const settings = withDefaults(options)
  const connections = openConnections(settings)
  const known = readMigrations('postgres')
  const { track, settled } = trackRequests()
  /** Those of which a page was cut: what takes time is to read their rows, and not the plan. */
  const longTables = new Set<AnyResource>()
  // Well before the answer is given up: a commit that is refused for a lock is not stored later.
  const lockTimeout = String(Math.ceil(settings.timeoutMs / 2))

  /** A read may be repeated: the pool's connections can all have died with the last server. */
  async function read(statement: Statement, brief?: AnyResource): Promise<SqlRow[]> {
    const send = () =>
      brief ? connections.sendBrief(brief.name, statement) : connections.send(statement)
    try {
      return await send().catch((error) => {
        if (error instanceof Unanswered && !error.late) return send()
        throw error
      })
    } catch (error) {
      throw error instanceof Unanswered ? unavailable(error.cause) : storageError(error)
    }
  }

  /** Sends commits once. What it throws is a `StorageError`, or an error of the server. */
  async function sendCommits(statement: Statement): Promise<unknown[]> {
    try {
      const rows = await connections.send(statement)
      return rows.map(([stored]) => stored)
    } catch (error) {
      if (!(error instanceof Unanswered)) throw error
      throw new StorageError('outcome_unknown', { cause: error.cause })
    }
  }

  async function commit({ tenant, changes }: EncodedCommit): Promise<unknown> {
    for (let tries = 1; ; tries++) {
      try {
        const values = [tenant, changes, lockTimeout]
        const [stored] = await sendCommits({ text: commitText, values, onePlan: true })
        return stored
      } catch (error) {
        if (meaningOf(stateOf(error) ?? '') !== 'retry' || tries === COMMIT_TRIES)
          throw storageError(error)
        await sleep(RETRY_MS * tries * Math.random())
      }
    }
  }

  /** Null where the server rolled them back for a reason that may be that of one of them. */
  async function commitTogether(commits: readonly EncodedCommit[]): Promise<unknown[] | null> {
    const values = [`[${commits.map(jsonOf).join()}]`]
    try {
      return await sendCommits({ text: groupText, values, onePlan: true })
    } catch (error) {
      if (!stateOf(error) && !isErrorOfStatement(error)) throw error
      // Where there is one, the refusal is its own.
      const refused = commits.length === 1 && refusal(error as pg.DatabaseError, error)
      if (refused) throw refused
      return null
    }
  }

  const commitInGroup = createGroups(
    {
      together: commitTogether,
      alone: commit,
      sizeOf: ({ changes }: EncodedCommit) => changes.length,
      waitedTooLong: () => unavailable(new Error('too many commits wait for it'))
    },
    { ...GROUP_LIMITS, waitMs: settings.connectTimeoutMs }
  )

  function storageError(error: unknown): unknown {
    const state = stateOf(error)
    if (!state) return error
    const refused = refusal(error as pg.DatabaseError, error)
    if (refused) return refused
    switch (meaningOf(state)) {
      case 'schema':
        return new StorageError('schema_outdated', { cause: error })
      case 'retry':
      case 'unavailable':
        return unavailable(error)
      default:
        return error
    }
  }

  /** For a role that may not even read which migrations there are. */
  async function namingRole(error: StorageError): Promise<never> {
    if (stateOf(error.cause) !== INSUFFICIENT_PRIVILEGE) throw error
    const text = 'select quote_ident(current_user)'
    const [row] = await read({ text, values: [], onePlan: true })
    throw lacksPermissions(row?.[0] as string, error)
  }

  /** The newest migration applied, and whether nothing may be written, once this release can work with it. */
  async function checkSchema(warn: (message: string) => void) {
    const [row] = await read(schemaStatement).catch(namingRole).catch(namingMigrations(known))
    const [applied, role, encoding, hidden, isReadOnly, isWhole, mayUse] = row as SchemaState
    assertEncoding(encoding)
    if (hidden)
      throw new StorageError(
        'unavailable',
        {},
        `Row level security hides every row from ${role}: connect as the owner of the tables, or give it bypassrls.`
      )
    assertSchemaLevel(known, applied, warn)
    // A newer release may have removed what this one knows.
    if (!isWhole && unknownMigrations(known, applied).length === 0)
      throw new StorageError(
        'schema_outdated',
        {},
        'The database lacks tables or functions that its migrations made: restore it whole.'
      )
    if (mayUse === false) throw lacksPermissions(role)
    return { migration: applied.at(-1)?.version ?? null, isReadOnly }
  }

  try {
    const { isReadOnly } = await checkSchema(settings.onWarning)
    // Only of a start: what was there before a failover finds the primary by itself.
    if (isReadOnly)
      throw new StorageError(
        'unavailable',
        {},
        'The database is read-only, as a replica is, and the role may be: name one that can be written to.'
      )
  } catch (error) {
    await connections.end()
    throw error
  }

  return {
    kind: 'postgres',

    async get(resource, tenant, key) {
      const [found] = await track(read(getStatement(resource, tenant, key), resource))
      return found ? decodeRow(resource, found[0] as RawRow) : null
    },

    async page(resource, tenant, query) {
      const isLong = longTables.has(resource)
      const { statement, isBrief, decode } = pageRead(resource, tenant, query, isLong)
      const [found] = await track(read(statement, isBrief ? resource : undefined))
      const page = decode(found as SqlRow)
      if (page.cut) longTables.add(resource)
      return page
    },

    async apply(tenant, changes) {
      const encoded = { tenant, changes: JSON.stringify(encodeChanges(changes)) }
      const small =
        changes.length <= MOST_CHANGES_IN_GROUP && encoded.changes.length <= LARGEST_IN_GROUP
      const inCompany = small && onlyInserts(changes)
      const stored = await track(inCompany ? commitInGroup(encoded) : commit(encoded))
      return decodeStored(changes, stored) as (DriverRow | null)[]
    },

    async ping() {
      const { migration } = await track(checkSchema(() => {}))
      return { migration }
    },

    async close() {
      // The pool forgets those who still wait for a connection when it ends.
      await settled()
      await connections.end()
    }
  }
}

/** Until the transaction ends, and so in this statement alone. */
const commitText = `
  select case when set_config('lock_timeout', $3, true) <> '' then public.apply_changes($1, $2) end`

/**
 * Whether the server could not go on, as with a damaged page, but says that it was with this
 * statement: then nothing of it was stored. It may say so in another language, and is not understood.
 * Other states may be a pooler's, which does not know.
 */
function isErrorOfStatement(error: unknown): boolean {
  const { cause } = error as StorageError
  const isServers = /^(58|XX)/.test(stateOf(cause) ?? '')
  return isServers && (cause as pg.DatabaseError).severity === 'ERROR'
}

/**
 * One transaction for all. Before each, the time that is left to wait for a lock is set, until the
 * transaction ends.
 */
const groupText = `
  select case when set_config('lock_timeout', greatest(1, ${GROUP_LOCK_TIMEOUT_MS} -
      (1000 * extract(epoch from clock_timestamp() - statement_timestamp()))::int)::text, true) <> ''
    then public.apply_changes(given.commit->>'tenant', given.commit->'changes') end
  from jsonb_array_elements($1) with ordinality as given (commit, place)
  order by place`

function jsonOf({ tenant, changes }: EncodedCommit): string {
  return `{"tenant":${JSON.stringify(tenant)},"changes":${changes}}`
}

/**
 * Such commits wait for no other, but for one that writes the same unique value, or deletes what they
 * refer to or changes its key.
 */
function onlyInserts(changes: readonly DriverChange[]): boolean {
  return changes.every(({ op }) => op === 'insert')
}

const schemaStatement: Statement = {
  text: `
    select array(select json_build_object('version', version, 'checksum', checksum)
        from public.schema_migrations order by version),
      quote_ident(current_user), current_setting('server_encoding'),
      row_security_active('public.schema_migrations'), current_setting('transaction_read_only')::bool,
      apply_changes is not null and bool_and(table_name is not null),
      has_function_privilege(apply_changes, 'execute')
        and bool_and(has_table_privilege(table_name, 'select'))
    from to_regprocedure('public.apply_changes(text, jsonb)') as apply_changes,
      unnest($1::text[]) as name, to_regclass(format('public.%I', name)) as table_name
    group by apply_changes`,
  values: [resources.map(({ name }) => name)],
  onePlan: true
}

type SchemaState = [
  applied: AppliedMigration[],
  role: string,
  encoding: string,
  hidden: boolean,
  isReadOnly: boolean,
  isWhole: boolean,
  mayUse: boolean | null
]

const INSUFFICIENT_PRIVILEGE = '42501'

function lacksPermissions(role: string, cause?: unknown): StorageError {
  const grants = [
    'usage on schema public',
    'select on all tables in schema public',
    'execute on function public.apply_changes'
  ].map((privilege) => `grant ${privilege} to ${role}`)
  return new StorageError(
    'unavailable',
    { cause },
    `The role ${role} lacks permissions: ${grants.join('; ')}.`
  )
}
