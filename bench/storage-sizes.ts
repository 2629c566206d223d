import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openMemory } from '../adapters/storage/memory.js'
import type { Storage, TenantId } from '../adapters/storage/port.js'
import { openPostgres } from '../adapters/storage/postgres.js'
import { openSqlite } from '../adapters/storage/sqlite.js'
import { createStorage } from '../adapters/storage/storage.js'
import { openSupabase } from '../adapters/storage/supabase.js'
import { templates } from '../schemas/templates.js'
import { tenants } from '../schemas/tenants.js'
import { type LocalSupabase, startSupabase } from '../test/support/supabase-stack.js'
import { quantile } from './compare.js'
import { moveCursor } from './move-cursor.js'
import { profileOfCalls, withProfile } from './profile.js'
import type { Row } from './results.js'
import { sizeRows } from './size-rows.js'

/**
 * What a get, a page and a commit of a storage cost among many rows, for each of what they cost
 * among a thousand, with nothing of the API around them. The sizes take turns, call by call.
 */

const tenant = '019b76da-a800-7000-8000-000000000001' as TenantId
const from = { resource: templates, tenant } as const
const start = Date.UTC(2026, 0, 1)

interface Sized {
  readonly rows: number
  readonly storage: Storage
  /** Of the list's first row. */
  readonly cursor: string
}

/** Makes ready what is then timed. */
type Call = (sized: Sized, n: number) => () => Promise<unknown>

let made = 0
/** What commits added, until it is removed again so that the sizes stay what they are. */
const added: { readonly storage: Storage; readonly key: string }[] = []
const calls: Readonly<Record<string, Call>> = {
  'one get': ({ storage, rows }, n) => {
    const key = keyOf((n * 7919) % rows)
    return () => storage.get(from, key)
  },
  'one page':
    ({ storage }) =>
    () =>
      storage.list(from, { limit: 50 }),
  'a page at random': ({ storage, rows, cursor: first }, n) => {
    const before = 50 + ((n * 7919) % (rows - 50))
    const at = new Date(start + before).toISOString()
    const cursor = moveCursor(first, { at, key: keyOf(before) })
    return () => storage.list(from, { limit: 50, cursor })
  },
  'one commit': ({ storage }) => {
    const key = `new_${made++}`
    added.push({ storage, key })
    const changes = [insert(key)]
    return () => storage.commit({ tenant, changes })
  }
}

export interface StorageSizesExtent {
  readonly sizes: readonly number[]
  readonly rounds: number
  readonly callsPerRound: number
}

export async function measureStorageSizes(extent: StorageSizesExtent): Promise<Row[]> {
  const folder = await mkdtemp(join(tmpdir(), 'bench-'))
  const stacks: LocalSupabase[] = []
  try {
    const memory = extent.sizes.map(() => createStorage(openMemory()))
    const sqlite = extent.sizes.map((rows) =>
      createStorage(openSqlite({ path: join(folder, `${rows}.db`) }))
    )
    const inProcess = [
      ...(await rowsOf('memory', memory, extent, fill)),
      ...(await rowsOf('SQLite', sqlite, extent, fill))
    ]
    for (const rows of extent.sizes) stacks.push(await startFilled(rows))
    const postgres = stacks.map(async ({ server, database }) =>
      createStorage(await openPostgres({ url: server.url(database) }))
    )
    const supabase = stacks.map(async ({ url, key }) =>
      createStorage(await openSupabase({ url, key }))
    )
    return [
      ...inProcess,
      ...(await rowsOf('Postgres', await Promise.all(postgres), extent)),
      ...(await rowsOf('Supabase', await Promise.all(supabase), extent))
    ]
  } finally {
    for (const stack of stacks) await stack.dispose()
    await rm(folder, { recursive: true })
  }
}

async function rowsOf(
  name: string,
  storages: readonly Storage[],
  { sizes, rounds, callsPerRound }: StorageSizesExtent,
  prepare?: (storage: Storage, rows: number) => Promise<void>
): Promise<Row[]> {
  const sized: Sized[] = []
  for (const [index, storage] of storages.entries()) {
    const rows = sizes[index] as number
    await prepare?.(storage, rows)
    const { next } = await storage.list(from, { limit: 1 })
    sized.push({ rows, storage, cursor: next as string })
  }
  const found: Row[] = []
  for (const [what, call] of Object.entries(calls)) {
    const times: number[][] = []
    for (let round = 0; round <= rounds; round++)
      times.push(await timeRound(sized, call, round * callsPerRound, callsPerRound))
    const unread = times.length * callsPerRound
    // The first one warms up.
    times.shift()
    for (const [before, row] of sizeRows(`${name}: ${what}`, sizes, times).entries()) {
      const each = sized[before + 1] as Sized
      const take = () => profileOfCalls((n) => call(each, unread + n)())
      found.push(await withProfile(row, take))
      await removeAdded()
    }
  }
  for (const storage of storages) await storage.close()
  return found
}

/**
 * The median call of each size, in microseconds. No number comes again in another round, so that
 * among many rows each is one that was not read before, and not yet in the processor's caches.
 */
async function timeRound(
  sized: readonly Sized[],
  call: Call,
  first: number,
  count: number
): Promise<number[]> {
  const times = sized.map((): number[] => [])
  for (let n = first; n < first + count; n++)
    for (const [index, each] of sized.entries()) {
      const run = call(each, n)
      const begin = process.hrtime.bigint()
      await run()
      times[index]?.push(Number(process.hrtime.bigint() - begin) / 1000)
    }
  await removeAdded()
  return times.map((each) => quantile(each, 0.5))
}

async function removeAdded(): Promise<void> {
  for (const { storage, key } of added.splice(0))
    await storage.commit({ tenant, changes: [{ op: 'delete', resource: templates, key }] })
}

async function fill(storage: Storage, rows: number): Promise<void> {
  await storage.commit({
    tenant,
    changes: [{ op: 'insert', resource: tenants, row: { id: tenant, name: 'Bench' } }]
  })
  for (let n = 0; n < rows; ) {
    const batch: Promise<unknown>[] = []
    for (let i = 0; i < 1000 && n < rows; i++, n++)
      batch.push(storage.commit({ tenant, changes: [insert(keyOf(n))], at: new Date(start + n) }))
    await Promise.all(batch)
  }
}

async function startFilled(rows: number): Promise<LocalSupabase> {
  const stack = await startSupabase()
  await stack.server.query(
    stack.database,
    `insert into public.tenants values ('${tenant}', 'Bench', now(), now(), 1);
     insert into public.templates
       select '${tenant}', 'tpl_' || lpad(n::text, 7, '0'), 'Template', '', null,
         timestamptz '2026-01-01Z' + n * interval '1 ms', now(), 1
       from generate_series(0, ${rows - 1}) n`
  )
  await stack.server.query(stack.database, 'vacuum analyze')
  return stack
}

function keyOf(n: number): string {
  return `tpl_${String(n).padStart(7, '0')}`
}

function insert(id: string) {
  const row = { id, name: 'Template', description: '' }
  return { op: 'insert', resource: templates, row } as const
}
