import { setTimeout as sleep } from 'node:timers/promises'
import { createClient } from '@supabase/supabase-js'
import type { AnyResource } from '../../schemas/resource.js'
import { fetchText, NoAnswer, parseError } from '../fetch-text.js'
import { createKeepAliveFetch } from '../keep-alive-fetch.js'
import type { Driver, DriverQuery } from './driver.js'
import { StorageError } from './errors.js'
import { type AppliedMigration, readMigrations } from './migrations.js'
import { assertSchemaLevel, namingMigrations } from './schema-level.js'
import {
  decodeRow,
  decodeStored,
  encodeChanges,
  meaningOf,
  type RawRow,
  refusal,
  type SqlError
} from './sql-functions.js'
import { trackRequests } from './track-requests.js'

export interface SupabaseOptions {
  /** The project's address, `https://….supabase.co`. */
  readonly url: string
  /** The service-role key or a secret key (`sb_secret_…`). */
  readonly key: string
  /** How long a read or a commit may take, repeats included, in milliseconds; 10000 by default. */
  readonly timeoutMs?: number
  /** What an operator should know; a process warning by default. */
  readonly onWarning?: (message: string) => void
}

/** Tries of a read that meets a broken connection, and of a commit that was rolled back. */
const READ_TRIES = 3
const COMMIT_TRIES = 5
const RETRY_MS = 50
/** Shorter than gateways keep idle connections: a commit may not meet one that is being closed. */
const IDLE_MS = 4000

/**
 * A Supabase project through its REST interface. A get, a page and a commit take one HTTP request
 * each; pages are read by `read_page` and commits run in `apply_changes`.
 * @throws StorageError `schema_outdated` where migrations are missing: it applies none itself.
 */
export async function openSupabase(options: SupabaseOptions): Promise<Driver> {
  const { timeoutMs = 10_000, onWarning = (message) => process.emitWarning(message) } = options
  // A commit whose answer was lost is never sent again.
  const connections = createKeepAliveFetch(options.url, { idleMs: IDLE_MS })
  const client = createServiceClient(options, connections.fetch)
  const known = readMigrations('postgres')
  const { track, settled } = trackRequests()
  /** Those of which a page was cut: what takes time is to read their rows. */
  const longTables = new Set<AnyResource>()

  /** Reads are repeated while the connection breaks, and until the time is up. */
  function read(send: Send): Promise<unknown> {
    return track(repeat(send, READ_TRIES, 'unavailable', (error) => error instanceof NoAnswer))
  }

  /** A commit is repeated only when the database said that it rolled it back. */
  function commit(send: Send): Promise<unknown> {
    return track(
      repeat(send, COMMIT_TRIES, 'outcome_unknown', (error) => {
        return error instanceof Refusal && error.meaning === 'retry'
      })
    )
  }

  async function repeat(
    send: Send,
    most: number,
    lost: 'unavailable' | 'outcome_unknown',
    isHarmless: (error: unknown) => boolean
  ): Promise<unknown> {
    const signal = AbortSignal.timeout(timeoutMs)
    for (let tries = 1; ; tries++) {
      try {
        return (await send(signal).throwOnError()).data
      } catch (error) {
        const again = isHarmless(error) && tries < most
        if (again)
          await sleep(RETRY_MS * tries * Math.random(), undefined, { signal }).catch(() => {})
        if (!again || signal.aborted) throw storageError(error, lost)
      }
    }
  }

  /** The newest migration applied, once it is sure that this release can work with it. */
  async function checkSchema(warn: (message: string) => void): Promise<string | null> {
    const answer = await read((signal) =>
      client
        .from('schema_migrations')
        .select('version,checksum')
        .order('version')
        .abortSignal(signal)
    ).catch(namingMigrations(known))
    const applied = rowsOf(answer).map(
      ({ version, checksum }): AppliedMigration => ({
        version: version as string,
        checksum: checksum as string | null
      })
    )
    assertSchemaLevel(known, applied, warn)
    return applied.at(-1)?.version ?? null
  }

  try {
    await checkSchema(onWarning)
  } catch (error) {
    connections.close()
    throw error
  }

  return {
    kind: 'supabase',

    async get(resource, tenant, key) {
      const columns = resource.columns.map(({ name }) => name).join(',')
      const answer = await read((signal) => {
        let query = client.from(resource.name).select(columns).eq(resource.key, key)
        if (resource.scope && tenant !== null) query = query.eq(resource.scope, tenant)
        return query.limit(1).abortSignal(signal)
      })
      const [row] = rowsOf(answer)
      return row ? decodeRow(resource, row) : null
    },

    async page(resource, tenant, query) {
      const asked = encodeQuery(query, longTables.has(resource))
      const input = { resource: resource.name, tenant, query: asked }
      const answer = await read((signal) => client.rpc('read_page', input).abortSignal(signal))
      const { rows, cut, total } = (answer ?? {}) as PageAnswer
      const page = { rows: rowsOf(rows).map((row) => decodeRow(resource, row)), cut: cut === true }
      if (page.cut) longTables.add(resource)
      return typeof total === 'number' ? { ...page, total } : page
    },

    async apply(tenant, changes) {
      const input = { tenant, changes: encodeChanges(changes) }
      const answer = await commit((signal) =>
        client.rpc('apply_changes', input).abortSignal(signal)
      )
      const stored = decodeStored(changes, answer)
      if (!stored)
        throw new StorageError('outcome_unknown', {}, 'Supabase answered something else.')
      return stored
    },

    async ping() {
      return { migration: await checkSchema(() => {}) }
    },

    async close() {
      await settled()
      connections.close()
    }
  }
}

/** A request of supabase-js, which sends it when it is awaited. */
type Send = (signal: AbortSignal) => { throwOnError(): PromiseLike<{ data: unknown }> }

/** A client that is nobody but the server: no session, and no socket until one is asked for. */
function createServiceClient({ url, key }: SupabaseOptions, send: typeof fetch) {
  return createClient(url, key, {
    auth: { persistSession: false, autoRefreshToken: false, detectSessionInUrl: false },
    accessToken: async () => key,
    // Whatever the database's own zone: some have offsets that JavaScript cannot read.
    global: {
      fetch: (...request) => fetchAnswer(send, ...request),
      headers: { prefer: 'timezone=UTC' }
    }
  })
}

/**
 * Reads an answer to its end, and throws what is not one: supabase-js would pass over the cause,
 * and take a 404 without a body for an empty success.
 */
async function fetchAnswer(...request: Parameters<typeof fetchText>): Promise<Response> {
  const { response, text } = await fetchText(...request)
  if (!response.ok) throw new Refusal(response.status, text)
  return response
}

/**
 * What a status means where neither PostgREST nor Postgres wrote the answer: Supabase's gateway
 * before them refuses keys and pauses projects (540), and Cloudflare before that does not reach it
 * (https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/).
 */
const notPassedOn = new Set([401, 403, 404, 429, 521, 523, 525, 526, 530, 540])

/** Codes of PostgREST (https://docs.postgrest.org/en/stable/references/errors.html). */
const postgrestMeanings: readonly [RegExp, ReturnType<typeof meaningOf>][] = [
  // No connection to the database, or none free, or no schema cache yet: nothing was executed.
  [/^PGRST00[023]$/, 'unavailable'],
  [/^PGRST00/, 'lost'],
  [/^PGRST(106|20[0-5])$/, 'schema'],
  [/^PGRST3/, 'unavailable']
]

/** An answer that is not a success. */
class Refusal extends Error {
  readonly sql: SqlError
  readonly meaning: ReturnType<typeof meaningOf>

  constructor(status: number, text: string) {
    const { code: given, message, details } = parseError(text)
    // A gateway in between has codes of its own.
    const code =
      given !== undefined && /^(|PGRST\w+|(?=.*\d)[0-9A-Z]{5})$/.test(given) ? given : undefined
    super(message ?? `HTTP ${status}`)
    this.sql = { code, message, detail: details }
    // PostgREST has a code that is empty where Postgres went away before it answered.
    if (code === '') this.meaning = 'lost'
    else this.meaning = code ? codeMeaning(code) : statusMeaning(status)
  }
}

function codeMeaning(code: string): ReturnType<typeof meaningOf> {
  if (!code.startsWith('PGRST')) return meaningOf(code)
  return postgrestMeanings.find(([pattern]) => pattern.test(code))?.[1] ?? 'bug'
}

function statusMeaning(status: number): ReturnType<typeof meaningOf> {
  if (notPassedOn.has(status)) return 'unavailable'
  return status >= 500 || status === 408 || status === 499 ? 'lost' : 'bug'
}

/** @param lost what it is called when nobody knows whether the request was carried out. */
function storageError(error: unknown, lost: 'unavailable' | 'outcome_unknown'): unknown {
  const message = `Supabase cannot be used: ${(error as Error).message}`
  const unavailable = new StorageError('unavailable', { cause: error }, message)
  const unclear = lost === 'unavailable' ? unavailable : new StorageError(lost, { cause: error })
  // What is no JSON did not come from PostgREST.
  if (error instanceof SyntaxError) return unclear
  if (error instanceof NoAnswer) return error.wasSent ? unclear : unavailable
  if (!(error instanceof Refusal)) return error
  const refused = refusal(error.sql, error)
  if (refused) return refused
  switch (error.meaning) {
    case 'lost':
      return unclear
    case 'schema':
      return new StorageError('schema_outdated', { cause: error })
    case 'retry':
    case 'unavailable':
      return unavailable
    default:
      return error
  }
}

interface PageAnswer {
  readonly rows?: unknown
  readonly cut?: boolean
  readonly total?: number | null
}

function rowsOf(answer: unknown): RawRow[] {
  if (Array.isArray(answer)) return answer
  throw new StorageError('unavailable', {}, 'Supabase cannot be used: it answered something else.')
}

function encodeQuery(query: DriverQuery, long: boolean) {
  return { ...query, filter: Object.fromEntries(query.filter), long }
}
