import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import type { AnyResource, Column } from '../../schemas/resource.js'
import type { Driver, DriverQuery, DriverRow } from './driver.js'
import { StorageError } from './errors.js'
import { readMigrations } from './migrations.js'
import type { TenantId } from './port.js'
import { assertSchemaLevel, missingMigrations } from './schema-level.js'
import {
  decodeRow,
  decodeStored,
  encodeChanges,
  meaningOf,
  type RawRow,
  refusal
} from './sql-functions.js'

export interface PostgresOptions {
  /** `postgres://user:password@host:port/database`, with `?sslmode=verify-full` and the like for TLS. */
  readonly url: string
  /** Connections at most; 10 by default. */
  readonly poolSize?: number
  /**
   * Whether statements are prepared once for each connection. On by default, and given up with a
   * warning when a pooler in transaction mode turns out not to keep them.
   */
  readonly preparedStatements?: boolean
  /** How long a request waits for a connection, in milliseconds; 5000 by default. */
  readonly connectTimeoutMs?: number
  /** How long it then waits for its answer, in milliseconds; 15000 by default. */
  readonly timeoutMs?: number
  /** What an operator should know; a process warning by default. */
  readonly onWarning?: (message: string) => void
}

type SqlRow = Record<string, unknown>

/** Tries of a commit that the server rolls back for a deadlock or a serialization failure. */
const COMMIT_TRIES = 5
const RETRY_MS = 20

/**
 * A pool of connections. A read and a commit take one round trip each; commits run in
 * `apply_changes`.
 * @throws StorageError `schema_outdated` where migrations are missing: it applies none itself.
 */
export async function openPostgres(options: PostgresOptions): Promise<Driver> {
  const { timeoutMs = 15_000, onWarning = (message) => process.emitWarning(message) } = options
  const pool = openPool(options)
  const known = readMigrations('postgres')
  const running = new Set<Promise<unknown>>()
  let prepared = options.preparedStatements ?? true

  /** Remembers the request until it is answered, for `close`. */
  function track<T>(request: Promise<T>): Promise<T> {
    running.add(request)
    const forget = () => running.delete(request)
    request.then(forget, forget)
    return request
  }

  async function connect(): Promise<pg.PoolClient> {
    try {
      return await pool.connect()
    } catch (error) {
      throw unavailable(error)
    }
  }

  /** Sends one statement. What it throws is an `Unanswered`, an error of the server, or `unavailable`. */
  async function send(statement: Statement): Promise<SqlRow[]> {
    const client = await connect()
    const { text, values, onePlan } = statement
    const name = prepared && onePlan ? statementName(text) : undefined
    try {
      const query = { text, values, query_timeout: timeoutMs, ...(name ? { name } : {}) }
      const { rows } = await client.query<SqlRow>(query)
      client.release()
      return rows
    } catch (error) {
      const state = stateOf(error)
      const meaning = state ? meaningOf(state) : 'lost'
      // A replica answers "read-only" after a failover: the next connection may find the primary.
      client.release(meaning === 'lost' || state === '25006')
      if (state && unknownStatement.has(state) && name) {
        if (prepared) onWarning(preparedStatementsLost)
        prepared = false
        return send(statement)
      }
      if (meaning !== 'lost') throw error
      throw wasNeverSent(error) ? unavailable(error) : new Unanswered(error)
    }
  }

  /** A read may be repeated: the pool's connections can all have died with the last server. */
  async function read(statement: Statement): Promise<SqlRow[]> {
    try {
      return await send(statement).catch((error) => {
        if (error instanceof Unanswered && !error.late) return send(statement)
        throw error
      })
    } catch (error) {
      throw error instanceof Unanswered ? unavailable(error.cause) : storageError(error)
    }
  }

  async function commit(values: unknown[]): Promise<unknown> {
    for (let tries = 1; ; tries++) {
      try {
        const [row] = await send({ text: commitText, values, onePlan: true })
        return row?.stored
      } catch (error) {
        if (error instanceof Unanswered)
          throw new StorageError('outcome_unknown', { cause: error.cause })
        if (meaningOf(stateOf(error) ?? '') !== 'retry' || tries === COMMIT_TRIES)
          throw storageError(error)
        await sleep(RETRY_MS * tries * Math.random())
      }
    }
  }

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

  /** The newest migration applied, once it is sure that this release can work with it. */
  async function checkSchema(warn: (message: string) => void): Promise<string | null> {
    const [row] = await read(schemaStatement).catch((error) => {
      if (error instanceof StorageError && error.code === 'schema_outdated')
        throw missingMigrations(
          known.map(({ version }) => version),
          error
        )
      throw error
    })
    const { versions: applied, role, hidden } = row as unknown as SchemaState
    if (hidden)
      throw new StorageError(
        'unavailable',
        {},
        `Row level security hides every row from ${role}: connect as the owner of the tables.`
      )
    assertSchemaLevel(known, applied, warn)
    return applied.at(-1) ?? null
  }

  try {
    await checkSchema(onWarning)
  } catch (error) {
    await pool.end()
    throw error
  }

  return {
    kind: 'postgres',

    async get(resource, tenant, key) {
      const [found] = await track(read(getStatement(resource, tenant, key)))
      return found ? decodeRow(resource, found.row as RawRow) : null
    },

    async page(resource, tenant, query) {
      const [found] = await track(read(pageStatement(resource, tenant, query)))
      const { rows, total } = found as unknown as { rows: RawRow[] | null; total?: string }
      const page = { rows: (rows ?? []).map((row) => decodeRow(resource, row)) }
      return total === undefined ? page : { ...page, total: Number(total) }
    },

    async apply(tenant, changes) {
      const stored = await track(commit([tenant, JSON.stringify(encodeChanges(changes))]))
      return decodeStored(changes, stored) as (DriverRow | null)[]
    },

    async ping() {
      return { migration: await track(checkSchema(() => {})) }
    },

    async close() {
      // The pool forgets those who still wait for a connection when it ends.
      while (running.size) await Promise.allSettled(running)
      await pool.end()
    }
  }
}

function openPool({ url, poolSize = 10, connectTimeoutMs = 5000 }: PostgresOptions): pg.Pool {
  const pool = new pg.Pool({
    connectionString: url,
    max: poolSize,
    connectionTimeoutMillis: connectTimeoutMs,
    keepAlive: true,
    application_name: 'workflow-api'
  })
  // Without listeners, a connection that breaks between two requests would end the process. The
  // pool replaces it; a request that meets one fails by itself.
  pool.on('error', () => {})
  pool.on('connect', (client) => client.on('error', () => {}))
  return pool
}

/** A statement was sent, and its answer never came. */
class Unanswered extends Error {
  /** Whether it was given up for time. */
  readonly late: boolean

  constructor(cause: unknown) {
    super('no answer came', { cause })
    this.late = (cause as Error).message === 'Query read timeout'
  }
}

/** The connection was found broken before the statement was written to it. */
function wasNeverSent(error: unknown): boolean {
  return (error as Error).message.endsWith('not queryable')
}

function unavailable(cause: unknown): StorageError {
  const { message } = cause as Error
  return new StorageError('unavailable', { cause }, `Postgres cannot be used: ${message}`)
}

/** The SQLSTATE, or undefined where it was not the server that failed. */
function stateOf(error: unknown): string | undefined {
  return error instanceof pg.DatabaseError ? error.code : undefined
}

/** invalid_sql_statement_name and duplicate_prepared_statement: nothing was executed. */
const unknownStatement = new Set(['26000', '42P05'])
const preparedStatementsLost =
  'The Postgres pooler does not keep prepared statements (transaction mode): going on without.'

/** Statements are named by their text: behind a pooler, two releases may share a connection. */
function statementName(text: string): string {
  let name = statementNames.get(text)
  if (!name) {
    name = createHash('sha256').update(text).digest('base64url')
    statementNames.set(text, name)
  }
  return name
}
const statementNames = new Map<string, string>()

const commitText = 'select public.apply_changes($1, $2) as stored'

const schemaStatement: Statement = {
  text: `
    select array(select version from public.schema_migrations order by version) as versions,
      current_user as role, row_security_active('public.schema_migrations') as hidden`,
  values: [],
  onePlan: true
}

interface SchemaState {
  readonly versions: string[]
  readonly role: string
  readonly hidden: boolean
}

interface Statement {
  /** Differs by shape and never by value, so that there are few. */
  readonly text: string
  readonly values: unknown[]
  /** Whether Postgres may keep one plan for all values: those of others are planned anew each time. */
  readonly onePlan: boolean
}

function getStatement(resource: AnyResource, tenant: TenantId | null, key: string): Statement {
  const where = new Conditions()
  if (resource.scope && tenant !== null) where.add(`${column(resource.scope)} = ?`, tenant)
  where.add(`${column(resource.key)} = ?`, key)
  const row = `select ${selectList(resource)} from ${table(resource)} t ${where.text} limit 1`
  return {
    text: `select to_json(r) as row from (${row}) r`,
    values: where.values,
    onePlan: true
  }
}

function pageStatement(
  resource: AnyResource,
  tenant: TenantId | null,
  query: DriverQuery
): Statement {
  const { filter, since, until, order, limit, after, count } = query
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
  const ordered = `select ${selectList(resource)} from ${table(resource)} t ${where.text}
    order by ${at} ${order}, ${key} ${order} limit ${plannedLimit(limit)}`
  const rows = `select * from (${ordered}) p limit ${where.value(limit)}`
  const total = count ? `, (${all}) as total` : ''
  // One JSON text is read in less time than the texts of its values.
  return {
    text: `select (select json_agg(r) from (${rows}) r) as rows${total}`,
    values: where.values,
    onePlan: isIndexed(resource, filter)
  }
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
