import { createHash } from 'node:crypto'
import { setImmediate as nextTurn } from 'node:timers/promises'
import pg from 'pg'
import { StorageError } from './errors.js'
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
  /** How long a request waits for a connection, in milliseconds; 5000 by default. */
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
   * Sends a statement that takes the server no time: those that come at about the same time follow
   * each other on one connection, so that neither side wakes up for each of them.
   */
  sendBrief(statement: Statement): Promise<SqlRow[]>
  /** When all are answered. */
  end(): Promise<void>
}

/** A statement was sent, and its answer never came. */
export class Unanswered extends Error {
  /** Whether it was given up for time. */
  readonly late: boolean

  constructor(cause: unknown) {
    super('no answer came', { cause })
    this.late = (cause as Error).message === 'Query read timeout'
  }
}

/** Brief statements on one connection: the last waits for the others. */
const MOST_TOGETHER = 16

interface Waiting {
  readonly statement: Statement
  readonly resolve: (rows: SqlRow[]) => void
  readonly reject: (error: unknown) => void
}

export function openConnections(options: ConnectionOptions): Connections {
  const { timeoutMs = 15_000, onWarning = (message) => process.emitWarning(message) } = options
  const pool = openPool(options)
  let prepared = options.preparedStatements ?? true
  /** Those that the next connection takes along. */
  let gathering: Waiting[] | undefined

  /** Sends statements one after the other, without waiting for answers in between. */
  function sendAll(client: pg.PoolClient, waiting: readonly Waiting[]): void {
    let left = waiting.length
    let broken = false
    /** Before the last is answered, who may want a connection in turn. */
    function release(): void {
      if (--left === 0) client.release(broken)
    }
    for (const { statement, resolve, reject } of waiting)
      client.query(queryOf(statement)).then(
        ({ rows }) => {
          release()
          resolve(rows)
        },
        (error) => {
          const state = stateOf(error)
          const lost = state === undefined || meaningOf(state) === 'lost'
          // A replica answers "read-only" after a failover: the next connection may find the primary.
          broken ||= lost || state === '25006'
          release()
          if (!lost) reject(error)
          else reject(wasNeverSent(error) ? unavailable(error) : new Unanswered(error))
        }
      )
  }

  async function connectAndSend(waiting: readonly Waiting[]): Promise<void> {
    try {
      const client = await pool.connect()
      sendAll(client, waiting)
    } catch (error) {
      for (const { reject } of waiting) reject(unavailable(error))
    } finally {
      if (gathering === waiting) gathering = undefined
    }
  }

  function sendAlone(statement: Statement): Promise<SqlRow[]> {
    return new Promise((resolve, reject) => connectAndSend([{ statement, resolve, reject }]))
  }

  function sendTogether(statement: Statement): Promise<SqlRow[]> {
    return new Promise((resolve, reject) => {
      if (!gathering) {
        const waiting: Waiting[] = []
        gathering = waiting
        nextTurn().then(() => connectAndSend(waiting))
      }
      gathering.push({ statement, resolve, reject })
      if (gathering.length === MOST_TOGETHER) gathering = undefined
    })
  }

  function queryOf({ text, values, onePlan }: Statement): pg.QueryArrayConfig {
    const name = prepared && onePlan ? { name: statementName(text) } : {}
    const query = { text, values, rowMode: 'array' as const, query_timeout: timeoutMs, ...name }
    return query
  }

  /** Once more without its name where the server does not know it: nothing was executed. */
  async function orUnprepared(sent: Promise<SqlRow[]>, statement: Statement): Promise<SqlRow[]> {
    try {
      return await sent
    } catch (error) {
      if (!unknownStatement.has(stateOf(error) ?? '')) throw error
      const rows = await sendAlone({ ...statement, onePlan: false })
      if (prepared) onWarning(preparedStatementsLost)
      prepared = false
      return rows
    }
  }

  return {
    send: (statement) => orUnprepared(sendAlone(statement), statement),
    sendBrief: (statement) => orUnprepared(sendTogether(statement), statement),
    end: () => pool.end()
  }
}

function openPool({ url, poolSize = 10, connectTimeoutMs = 5000 }: ConnectionOptions): pg.Pool {
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
  const { message } = cause as Error
  return new StorageError('unavailable', { cause }, `Postgres cannot be used: ${message}`)
}

/** The SQLSTATE, or undefined where it was not the server that failed. */
export function stateOf(error: unknown): string | undefined {
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
