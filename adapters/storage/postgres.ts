import { setTimeout as sleep } from 'node:timers/promises'
import type pg from 'pg'
import { resources } from '../../schemas/registry.js'
import type { AnyResource, Column } from '../../schemas/resource.js'
import { createGroups } from './commit-groups.js'
import type { Driver, DriverChange, DriverQuery, DriverRow } from './driver.js'
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
import { assertEncoding, assertSchemaLevel, namingMigrations } from './schema-level.js'
import {
  decodeLists,
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
/** A page that is larger, in rows, takes the server its time. Clients get 250 at most, and one tells of more. */
const BRIEF_PAGE = 251
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

  /** The newest migration applied, once it is sure that this release can work with it. */
  async function checkSchema(warn: (message: string) => void): Promise<string | null> {
    const [row] = await read(schemaStatement).catch(namingRole).catch(namingMigrations(known))
    const [applied, role, encoding, hidden, isWhole, mayUse] = row as SchemaState
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
    return applied.at(-1)?.version ?? null
  }

  try {
    await checkSchema(settings.onWarning)
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
      const { known, columns } = askedColumns(resource, tenant)
      const statement = pageStatement(resource, columns, tenant, query, isLong)
      const brief = isBrief(tenant, query) && statement.onePlan && !isLong ? resource : undefined
      const [found] = await track(read(statement, brief))
      const [total, cut, ...lists] = found as [string | null, boolean | null, ...SqlList[]]
      const rows = decodeLists(columns, lists.map(parseList), known)
      const page = { rows, cut: cut === true }
      if (page.cut) longTables.add(resource)
      return total === null ? page : { ...page, total: Number(total) }
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
      return { migration: await track(checkSchema(() => {})) }
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
      row_security_active('public.schema_migrations'),
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

function getStatement(resource: AnyResource, tenant: TenantId | null, key: string): Statement {
  const where = new Conditions()
  if (resource.scope && tenant !== null) where.add(`${column(resource.scope)} = ?`, tenant)
  where.add(`${column(resource.key)} = ?`, key)
  const row = `select ${selectList(resource)} from ${table(resource)} t ${where.text} limit 1`
  return {
    text: `select to_json(r) from (${row}) r`,
    values: where.values,
    onePlan: true
  }
}

/** Whether a page takes no time where an index serves its filter: each begins with the tenant. */
function isBrief(tenant: TenantId | null, { count, limit }: DriverQuery): boolean {
  return tenant !== null && !count && limit <= BRIEF_PAGE
}

function pageStatement(
  resource: AnyResource,
  columns: readonly Column[],
  tenant: TenantId | null,
  query: DriverQuery,
  isLong: boolean
): Statement {
  const { filter, since, until, order, limit, size, after, count } = query
  const [at, key] = [column(resource.order), column(resource.key)]
  const where = new Conditions()
  if (resource.scope && tenant !== null) where.add(`${column(resource.scope)} = ?`, tenant)
  for (const [field, value] of filter)
    if (value === null) where.add(`${column(field)} is null`)
    else where.add(`${column(field)} = ?`, value)
  if (since !== undefined) where.add(`${at} >= ?`, since)
  if (until !== undefined) where.add(`${at} < ?`, until)
  const all = `select count(*) from ${table(resource)} t ${where.text}`

  const beyond = order === 'asc' ? '>' : '<'
  if (after) where.add(`(${at}, ${key}) ${beyond} (?, ?)`, after.at, after.key)
  const ordered = `select ${columns.map(isLong ? selected : selectedText)} from ${table(resource)} t ${where.text}
    order by ${at} ${order}, ${key} ${order} limit ${plannedLimit(limit)}`
  const rows = `select * from (${ordered}) p limit ${where.value(limit)}`
  const within = isLong ? walkedWithinSize : withinSize
  const [fitting, cut]: Fitting = columns.some(({ unbounded }) => unbounded)
    ? within(rows, columns, where.value(size))
    : [rows, 'false']
  const total = count ? `(${all})` : 'null'
  // A list for each column takes Postgres and us less time than an object, or a message, for each row.
  return {
    text: `select ${total}, ${cut}, ${columns.map(aggregated)} from (${fitting}) r`,
    values: where.values,
    onePlan: isIndexed(resource, filter)
  }
}

/** The rows up to the one with which they come to the size, and how to tell that others follow. */
type Fitting = readonly [rows: string, cut: string]

/** For the text of a value Postgres reads and unpacks it, here of all rows, which are given with it. */
function withinSize(rows: string, columns: readonly Column[], size: string): Fitting {
  const fitting = `
    select * from (
      select *, sum(${textSize(columns)}) over before as size_before, lead(1) over before is not null as goes_on
      from (${rows}) t
      window before as (rows between unbounded preceding and 1 preceding)
    ) w where coalesce(size_before, 0) < ${size}`
  return [fitting, 'bool_and(r.goes_on)']
}

/** Row by row, and no further: a step for each is slow, but not as slow as rows that are long. */
function walkedWithinSize(rows: string, columns: readonly Column[], size: string): Fitting {
  const texts = `lateral (select ${columns.map(walkedText)} from (select s.*) t offset 0) t`
  const fitting = `
    with recursive stored as materialized (
      select *, row_number() over () as row_place from (${rows}) p
    ), walk as (
      select s.row_place, ${textSize(columns)}::bigint as row_size, t.*
      from stored s, ${texts} where s.row_place = 1
      union all
      select s.row_place, walk.row_size + ${textSize(columns)}, t.*
      from walk join stored s on s.row_place = walk.row_place + 1, ${texts}
      where walk.row_size < ${size}
    )
    select *, (select max(row_place) from stored) as last_place from walk`
  return [fitting, 'max(r.last_place) > max(r.row_place)']
}

function textSize(columns: readonly Column[]): string {
  const sizes = columns
    .filter(({ unbounded }) => unbounded)
    .map(({ name }) => `coalesce(octet_length(${column(name)}), 0)`)
  return `(${sizes.join(' + ')})`
}

/** The columns of a page, but for the tenant where it is known. */
function askedColumns({ columns, scope }: AnyResource, tenant: TenantId | null) {
  if (scope !== 'tenant_id' || tenant === null) return { columns, known: {} }
  return { columns: columns.filter(({ name }) => name !== scope), known: { [scope]: tenant } }
}

/** JSON as text: Postgres makes it once, for its size and for the list. */
function selectedText(each: Column): string {
  return each.kind === 'json' ? `${column(each.name)}::text as "${each.name}"` : selected(each)
}

/** Of a row that was selected before. */
function walkedText(each: Column): string {
  return each.kind === 'json' ? selectedText(each) : column(each.name)
}

function aggregated({ name, kind }: Column): string {
  if (kind !== 'json') return `json_agg(r."${name}")`
  return `'[' || string_agg(coalesce(r."${name}", 'null'), ',') || ']'`
}

type SqlList = readonly unknown[] | string | null

function parseList(list: SqlList): readonly unknown[] | null {
  return typeof list === 'string' ? JSON.parse(list) : list
}

/**
 * Whether an index has just the rows of a filter, in list order. Where one has only a part of it,
 * which one is best depends on the values: for others, all that it has might be read in vain.
 */
function isIndexed({ indexes }: AnyResource, filter: DriverQuery['filter']): boolean {
  const isWhole = (fields: readonly string[]) =>
    fields.length === filter.size && fields.every((field) => filter.has(field))
  return filter.size <= 1 || indexes.some(isWhole)
}

/**
 * Postgres expects a tenth of all rows where the limit is a parameter. A plan for that looks worse
 * than one for the limit itself, so that it would plan every page anew and keep none. Within this
 * limit, which it reads in the text, it expects no more than the page has; the texts stay few.
 */
function plannedLimit(limit: number): number {
  return 10 ** Math.ceil(Math.log10(limit))
}

/** Conditions with `?` for their values, which become numbered parameters. */
class Conditions {
  readonly values: unknown[] = []
  #conditions: string[] = []

  add(condition: string, ...values: unknown[]): void {
    const given = values[Symbol.iterator]()
    this.#conditions.push(condition.replace(/\?/g, () => this.value(given.next().value)))
  }

  /** The parameter that stands for a value. */
  value(value: unknown): string {
    return `$${this.values.push(value)}`
  }

  get text(): string {
    return this.#conditions.length ? `where ${this.#conditions.join(' and ')}` : ''
  }
}

/** The columns of `t`; times in UTC and without an offset, whatever the session's settings. */
function selectList(resource: AnyResource): string {
  return resource.columns.map(selected).join(', ')
}

function selected({ name, kind }: Column): string {
  return kind === 'timestamp' ? `${column(name)} at time zone 'UTC' as "${name}"` : column(name)
}

function table({ name }: AnyResource): string {
  return `public."${name}"`
}

function column(name: string): string {
  return `t."${name}"`
}
