import { hash } from 'node:crypto'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { reasonOf } from '../reason.js'
import { StorageError } from './errors.js'
import { cancelStatement } from './postgres-cancel.js'
import { meaningOf } from './sql-functions.js'

export interface ConnectionOptions {
  /** `postgres://user:password@host:port/database`, with `?sslmode=verify-full` and the like for TLS. */
  readonly url: string
  /** Connections at most; 10 by default. */
  readonly poolSize?: number
  /**
   * Whether statements are prepared once for each connection. On by default, and given up with a
   * warning when a pooler in transaction mode turns out not to keep them.
   */
  readonly preparedStatements?: boolean
  /** How long a request waits for a connection, in milliseconds, 1 at least; 5000 by default. */
  readonly connectTimeoutMs?: number
  /** How long it then waits for its answer, in milliseconds; 15000 by default. */
  readonly timeoutMs?: number
  /** What an operator should know; a process warning by default. */
  readonly onWarning?: (message: string) => void
}

export interface Statement {
  /** Differs by shape and never by value, so that there are few. */
  readonly text: string
  readonly values: unknown[]
  /** Whether Postgres may keep one plan for all values: those of others are planned anew each time. */
  readonly onePlan: boolean
}

/** The values of a row, in the order of its columns. */
export type SqlRow = unknown[]

/** What statements go through. What they throw is an `Unanswered`, an error of the server, or `unavailable`. */
export interface Connections {
  /** Sends a statement on a connection that has nothing else to do. */
  send(statement: Statement): Promise<SqlRow[]>
  /**
   * Sends a statement that takes the server no time: those of a table that come at about the same
   * time follow each other on one connection, so that neither side wakes up for each of them. Not
   * those of several, of which one may be locked.
   */
  sendBrief(table: string, statement: Statement): Promise<SqlRow[]>
  /** When all are answered. */
  end(): Promise<void>
}

/** A statement was sent, and its answer never came. */
export class Unanswered extends Error {
  /** @param late whether it was given up for time. */
  constructor(
    override readonly cause: Error,
    readonly late: boolean
  ) {
    super('no answer came')
  }
}

const QUERY_CANCELED = '57014'
const TOO_MANY_CONNECTIONS = '53300'
const RETRY_MS = 20
/** How long the server may take to cancel what it did not answer in time, before its connection is given up. */
const CANCEL_MS = 1000
/** Brief statements on one connection: the last waits for the others. */
const MOST_TOGETHER = 16

interface Waiting {
  readonly statement: Statement
  readonly resolve: (rows: SqlRow[] | Promise<SqlRow[]>) => void
  readonly reject: (error: unknown) => void
}

export function withDefaults({
  url,
  poolSize = 10,
  preparedStatements = true,
  connectTimeoutMs = 5000,
  timeoutMs = 15_000,
  onWarning = (message) => process.emitWarning(message)
}: ConnectionOptions): Required<ConnectionOptions> {
  return { url, poolSize, preparedStatements, connectTimeoutMs, timeoutMs, onWarning }
}

export function openConnections(options: Required<ConnectionOptions>): Connections {
  const { connectTimeoutMs, timeoutMs, onWarning } = options
  const pool = openPool(options)
  let prepared = options.preparedStatements
  /** By tables: those that go together at the end of this turn of the event loop. */
  const gathering = new Map<string, Waiting[]>()

  /** Sends statements one after the other, without waiting for answers in between. */
  function sendAll(client: pg.PoolClient, waiting: readonly Waiting[]): void {
    const failed = new Set<string>()
    let left = waiting.length
    let broken = false
    let late = false
    const timer = setTimeout(() => {
      late = true
      cancelStatement(client)
    }, timeoutMs)

    /** Before the last caller is answered: it may want a connection at once. */
    function release(): void {
      if (--left > 0) return
      clearTimeout(timer)
      // What was to be cancelled may have ended by itself: the next statement here would be instead.
      client.release(broken || late)
    }

    function fail({ statement, resolve, reject }: Waiting, error: Error): void {
      const state = stateOf(error)
      const lost = state === undefined || meaningOf(state) === 'lost'
      // A replica answers "read-only" after a failover: the next connection may find the primary.
      broken ||= lost || state === '25006'
      release()
      // Those behind it waited as long: what it was to prepare is not there, or they wait for the same.
      if (late && (state === QUERY_CANCELED || isUnknown(error))) {
        if (left > 0) cancelStatement(client)
        reject(unavailable(new Error('it did not answer in time', { cause: error })))
        return
      }
      if (isUnknown(error)) {
        // Not the server's fault where the one before, which was to prepare it, failed.
        if (failed.has(statement.text)) resolve(sendAlone(statement))
        else reject(error)
        return
      }
      failed.add(statement.text)
      if (lost) reject(wasNeverSent(error) ? unavailable(error) : new Unanswered(error, late))
      else reject(error)
    }

    for (const each of waiting)
      client.query(queryOf(each.statement)).then(
        ({ rows }) => {
          release()
          each.resolve(rows)
        },
        (error) => fail(each, error)
      )
  }

  async function connectAndSend(waiting: readonly Waiting[]): Promise<void> {
    let client: pg.PoolClient
    try {
      client = await connect()
    } catch (error) {
      for (const { reject } of waiting) reject(unavailable(error))
      return
    }
    sendAll(client, waiting)
  }

  /** One of the pool. Where the server has no more of them to give, those there are become free. */
  async function connect(): Promise<pg.PoolClient> {
    const deadline = performance.now() + connectTimeoutMs
    for (;;)
      try {
        // It may throw, too: for a certificate that is no longer there.
        return await pool.connect()
      } catch (error) {
        const mayWait = pool.totalCount > 0 && performance.now() < deadline
        if (stateOf(error) !== TOO_MANY_CONNECTIONS || !mayWait) throw error
        await sleep(RETRY_MS)
      }
  }

  function sendAlone(statement: Statement): Promise<SqlRow[]> {
    return new Promise((resolve, reject) => connectAndSend([{ statement, resolve, reject }]))
  }

  function sendTogether(table: string, statement: Statement): Promise<SqlRow[]> {
    return new Promise((resolve, reject) => {
      const waiting = gathering.get(table) ?? gather(table)
      waiting.push({ statement, resolve, reject })
      if (waiting.length === MOST_TOGETHER) gathering.delete(table)
    })
  }

  function gather(table: string): Waiting[] {
    const waiting: Waiting[] = []
    gathering.set(table, waiting)
    nextTurn().then(() => {
      if (gathering.get(table) === waiting) gathering.delete(table)
      connectAndSend(waiting)
    })
    return waiting
  }

  function queryOf({ text, values, onePlan }: Statement): pg.QueryArrayConfig {
    const name = prepared && onePlan ? { name: statementName(text) } : {}
    // For a server that does not even cancel. The types of pg do not know it of a query, though pg does.
    const timeout = { query_timeout: timeoutMs + CANCEL_MS }
    return { text, values, rowMode: 'array', ...timeout, ...name }
  }

  /** Once more without its name where the server does not know it: nothing was executed. */
  async function orUnprepared(sent: Promise<SqlRow[]>, statement: Statement): Promise<SqlRow[]> {
    try {
      return await sent
    } catch (error) {
      if (!isUnknown(error)) throw error
      const rows = await sendAlone({ ...statement, onePlan: false })
      if (prepared) onWarning(preparedStatementsLost)
      prepared = false
      return rows
    }
  }

  return {
    send: (statement) => orUnprepared(sendAlone(statement), statement),
    sendBrief: (table, statement) => orUnprepared(sendTogether(table, statement), statement),
    end: () => pool.end()
  }
}

function openPool({ url, poolSize, connectTimeoutMs }: Required<ConnectionOptions>): pg.Pool {
  const pool = new pg.Pool({
    connectionString: url,
    max: poolSize,
    connectionTimeoutMillis: connectTimeoutMs,
    pipeline: true,
    keepAlive: true,
    application_name: 'workflow-api'
  })
  // Without listeners, a connection that breaks between two requests would end the process. The
  // pool replaces it; a request that meets one fails by itself.
  pool.on('error', () => {})
  pool.on('connect', (client) => client.on('error', () => {}))
  return pool
}

/** The connection was found broken before the statement was written to it. */
function wasNeverSent(error: unknown): boolean {
  return (error as Error).message.endsWith('not queryable')
}

export function unavailable(cause: unknown): StorageError {
  return new StorageError('unavailable', { cause }, `Postgres cannot be used: ${reasonOf(cause)}`)
}

/** The SQLSTATE, or undefined where it was not the server that failed. */
export function stateOf(error: unknown): string | undefined {
  return error instanceof pg.DatabaseError ? error.code : undefined
}

/** invalid_sql_statement_name and duplicate_prepared_statement: nothing was executed. */
function isUnknown(error: unknown): boolean {
  return ['26000', '42P05'].includes(stateOf(error) ?? '')
}

const preparedStatementsLost =
  'The Postgres pooler does not keep prepared statements (transaction mode): going on without.'

/** Statements are named by their text: behind a pooler, two releases may share a connection. */
function statementName(text: string): string {
  let name = statementNames.get(text)
  if (!name) {
    name = hash('sha256', text, 'base64url')
    statementNames.set(text, name)
  }
  return name
}
const statementNames = new Map<string, string>()
