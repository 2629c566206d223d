import { join } from 'node:path'
import { type LocalSupabase, startSupabase } from '../test/support/supabase-stack.js'
import { type Load, type RequestOfMany, send } from './compare.js'
import { moveCursor } from './move-cursor.js'
import { profileUnderLoad, withProfile } from './profile.js'
import type { Row } from './results.js'
import { type Server, startPeer, supabaseEnvironment, withServers } from './servers.js'
import { sizeRows } from './size-rows.js'

/**
 * What a request takes among many rows, for each of what it takes among a thousand: one row, a page
 * and a change, of rows at random, by 50 callers. The sizes take turns, round by round.
 */

export interface SizesExtent {
  readonly sizes: readonly number[]
  readonly rounds: number
  readonly seconds: number
  /** Rows at random that a round asks for before it asks for one again. */
  readonly requests: number
}

interface Sized {
  readonly rows: number
  readonly own: Server
  /** Of the list's first row. */
  readonly cursor: string
}

type RequestAt = (sized: Sized, n: number) => RequestOfMany

const path = '/api/templates'
const connections = 50
let changes = 0

const kinds: Readonly<Record<string, { method: 'GET' | 'PATCH'; at: RequestAt }>> = {
  'GET one': {
    method: 'GET',
    at: (_, n) => ({ path: `${path}/${idOf(n)}`, includes: `"id":"${idOf(n)}"` })
  },
  'GET the first page': {
    method: 'GET',
    at: ({ rows }) => ({ path: `${path}?limit=50`, includes: `"id":"${idOf(rows - 1)}"` })
  },
  'GET a page at random': {
    method: 'GET',
    at({ cursor: first, rows }, n) {
      const before = 50 + (n % (rows - 50))
      const cursor = moveCursor(first, { at: timeOf(before).toISOString(), key: idOf(before) })
      return { path: `${path}?limit=50&cursor=${cursor}`, includes: `"id":"${idOf(before - 50)}"` }
    }
  },
  'PATCH one, audited': {
    method: 'PATCH',
    at(_, n) {
      const name = `Change ${changes++}`
      return { path: `${path}/${idOf(n)}`, body: JSON.stringify({ name }), includes: `"${name}"` }
    }
  }
}

export async function measureSizes(extent: SizesExtent, folder: string): Promise<Row[]> {
  const { sizes } = extent
  const memory = sizes.map((rows) => ({ STORAGE: 'memory', BENCH_ROWS: `${rows}` }))
  const sqlite = sizes.map((rows) => ({
    SQLITE_PATH: join(folder, `${rows}.db`),
    BENCH_ROWS: `${rows}`
  }))
  const start = (environments: Readonly<Record<string, string>>[]) =>
    environments.map((env) => startPeer('own', folder, env))
  const found = [
    ...(await withServers(start(memory), (own) => rowsOf('memory', own, extent))),
    ...(await withServers(start(sqlite), (own) => rowsOf('SQLite', own, extent)))
  ]
  const stacks: LocalSupabase[] = []
  try {
    for (const _ of sizes) stacks.push(await startSupabase())
    const postgres = stacks.map(({ server, database }) => ({ DATABASE_URL: server.url(database) }))
    await withServers(start(postgres), async (own) => {
      for (const [index, stack] of stacks.entries())
        await fill(stack, (own[index] as Server).tenant, sizes[index] as number)
      found.push(...(await rowsOf('Postgres', own, extent)))
    })
    const supabase = stacks.map(supabaseEnvironment)
    found.push(...(await withServers(start(supabase), (own) => rowsOf('Supabase', own, extent))))
    return found
  } finally {
    for (const stack of stacks) await stack.dispose()
  }
}

async function rowsOf(
  name: string,
  servers: readonly Server[],
  { sizes, rounds, seconds, requests }: SizesExtent
): Promise<Row[]> {
  const sized: Sized[] = []
  for (const [index, own] of servers.entries())
    sized.push({ rows: sizes[index] as number, own, cursor: await firstCursor(own) })
  const found: Row[] = []
  for (const [kind, { method, at }] of Object.entries(kinds)) {
    const times: number[][] = []
    // The first round warms up.
    for (let round = 0; round <= rounds; round++) {
      const taken: number[] = []
      for (const each of sized) {
        const load = loadOf(each, method, at, requests)
        const { rate } = await send(load, { seconds, connections })
        taken.push(1e6 / rate)
      }
      if (round > 0) times.push(taken)
    }
    for (const [before, row] of sizeRows(`${name}: ${kind}`, sizes, times).entries()) {
      const each = sized[before + 1] as Sized
      const take = () => profileUnderLoad(each.own, loadOf(each, method, at, requests), seconds)
      found.push(await withProfile(row, take))
    }
  }
  return found
}

function loadOf(sized: Sized, method: 'GET' | 'PATCH', at: RequestAt, count: number): Load {
  const { own, rows } = sized
  const headers = { authorization: `Bearer ${own.token}` }
  return {
    url: own.url,
    method,
    headers: method === 'PATCH' ? { ...headers, 'content-type': 'application/json' } : headers,
    status: 200,
    requests: Array.from({ length: count }, (_, i) => {
      // No two callers ask for one row: among few, their changes would meet more often.
      const caller = Math.floor((i / count) * connections)
      return at(sized, Math.floor((Math.random() * rows) / connections) * connections + caller)
    })
  }
}

async function firstCursor({ url, token }: Server): Promise<string> {
  const headers = { authorization: `Bearer ${token}` }
  const answer = await fetch(`${url}${path}?limit=1`, { headers })
  const [, cursor] = /[?&]cursor=([\w-]+)/.exec(answer.headers.get('link') ?? '') ?? []
  if (!cursor) throw new Error(`${url} has no rows`)
  return cursor
}

/** As `peers/own.mjs` fills the others, but faster. */
async function fill({ server, database }: LocalSupabase, tenant: string, rows: number) {
  await server.query(
    database,
    `insert into public.templates
       select '${tenant}', 'tpl_' || lpad(n::text, 7, '0'), 'Template ' || n,
         'Greets a new customer.',
         '{"steps":[{"send":"welcome"},{"wait":60},{"send":"reminder"}]}',
         timestamptz '2026-01-01Z' + (n / ${atOnce} + 1) * ${atOnce} * interval '1 s', now(), 1
       from generate_series(0, ${rows - 1}) n`
  )
  await server.query(database, 'vacuum analyze')
}

/** So many rows have one time. */
const atOnce = 500

function timeOf(n: number): Date {
  return new Date(Date.UTC(2026, 0, 1) + (Math.floor(n / atOnce) + 1) * atOnce * 1000)
}

function idOf(n: number): string {
  return `tpl_${String(n).padStart(7, '0')}`
}
