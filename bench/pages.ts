import { mkdtemp, rm } from 'node:fs/promises'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Driver } from '../adapters/storage/driver.js'
import { openMemory } from '../adapters/storage/memory.js'
import type { Change, Query, Storage, TenantId } from '../adapters/storage/port.js'
import { openSqlite } from '../adapters/storage/sqlite.js'
import { createStorage } from '../adapters/storage/storage.js'
import { executions } from '../schemas/executions.js'
import { flows } from '../schemas/flows.js'
import { tenants } from '../schemas/tenants.js'
import { moveCursor } from './move-cursor.js'

/**
 * What a page of 50 costs among many rows, as a multiple of what it costs among few. The two sizes
 * take turns, so that whatever else the machine does meets both alike.
 */

const quick = process.argv.includes('--quick')
const few = 1000
const many = quick ? 100_000 : 1_000_000
const rounds = quick ? 15 : 41
const warmUpRounds = 10
/** Pages of each size in a round, whose median is what the round found. */
const pagesPerRound = 101
const allowed = 1.5

const tenant = '019b76da-a800-7000-8000-000000000001' as TenantId
const statuses = ['queued', 'running', 'success', 'failed'] as const
const flowCount = 4

type PageQuery = Query<typeof executions>

interface Kind {
  readonly name: string
  open(): Promise<{ driver: Driver; dispose(): Promise<void> }>
}

const kinds: readonly Kind[] = [
  { name: 'memory', open: async () => ({ driver: openMemory(), dispose: async () => {} }) },
  {
    name: 'SQLite',
    async open() {
      const folder = await mkdtemp(join(tmpdir(), 'bench-'))
      const driver = openSqlite({ path: join(folder, 'bench.db') })
      return { driver, dispose: () => rm(folder, { recursive: true }) }
    }
  }
]

interface Shape {
  readonly name: string
  readonly query: PageQuery
  /** How far into the rows the pages start, as parts of them; from the first page without any. */
  readonly depths: readonly number[]
  /** Whether it is shown and not judged. */
  readonly informative?: boolean
}

const half = [0.5]
/**
 * So many places that the processor's caches do not hold them all. What that costs is the machine's
 * doing and not an index's: it is shown and not judged.
 */
const everywhere = Array.from({ length: 101 }, (_, i) => 0.25 + (((i * 37) % 101) / 100) * 0.5)
const byFlow = { filter: { flow_id: 'flow_1' }, limit: 50 }
const byStatus = { filter: { status: 'failed' }, limit: 50 } as const
const byBoth = { filter: { ...byFlow.filter, ...byStatus.filter }, limit: 50 }
const inPeriod = { since: timeOf(0).toISOString(), until: timeOf(many).toISOString() }

/** Half-way through the rows is as deep as a cursor gets from both ends. */
const shapes: readonly Shape[] = [
  { name: 'first', query: { limit: 50 }, depths: [] },
  { name: 'deep cursor', query: { limit: 50 }, depths: half },
  { name: 'deep cursor, oldest first', query: { limit: 50, order: 'asc' }, depths: half },
  { name: 'cursors all over', query: { limit: 50 }, depths: everywhere, informative: true },
  { name: 'first, by flow', query: byFlow, depths: [] },
  { name: 'deep cursor, by flow', query: byFlow, depths: half },
  { name: 'deep cursor, by status', query: byStatus, depths: half },
  { name: 'first, by flow and status', query: byBoth, depths: [] },
  { name: 'deep cursor, by flow, in a period', query: { ...byFlow, ...inPeriod }, depths: half },
  { name: 'cursors all over, by flow', query: byFlow, depths: everywhere, informative: true }
]

function timeOf(n: number): Date {
  return new Date(Date.UTC(2026, 0, 1) + n * 1000)
}

function keyOf(n: number): string {
  return `019b76da-a800-7000-8000-${n.toString(16).padStart(12, '0')}`
}

async function fill(storage: Storage, rows: number): Promise<void> {
  const start: Change[] = [{ op: 'insert', resource: tenants, row: { id: tenant, name: 'Acme' } }]
  for (let i = 0; i < flowCount; i++) {
    const row = { id: `flow_${i}`, name: `Flow ${i}`, status: 'active' }
    start.push({ op: 'insert', resource: flows, row })
  }
  await storage.commit({ tenant, changes: start.slice(0, 1) })
  await storage.commit({ tenant, changes: start.slice(1) })
  for (let n = 0; n < rows; ) {
    const batch: Promise<unknown>[] = []
    for (let i = 0; i < 2000 && n < rows; i++, n++) {
      const row = {
        id: keyOf(n),
        flow_id: `flow_${n % flowCount}`,
        status: statuses[(n >> 2) % statuses.length] as (typeof statuses)[number],
        input: { customer: n }
      }
      const changes = [{ op: 'insert', resource: executions, row }] as const
      batch.push(storage.commit({ tenant, changes, at: timeOf(n) }))
    }
    await Promise.all(batch)
  }
}

/** The cursor of a row so far from the oldest, without walking there. */
async function cursorAt(storage: Storage, query: PageQuery, age: number): Promise<string> {
  const from = { resource: executions, tenant }
  const at = timeOf(age).toISOString()
  const bound = query.order === 'asc' ? { since: at } : { until: at }
  const near = await storage.list(from, { ...query, ...bound, limit: 1 })
  const { next } = await storage.list(from, { ...query, limit: 1 })
  const [row] = near.rows
  if (!row || next === null) throw new Error('no rows there')
  return moveCursor(next, { at: row.created_at, key: row.id })
}

interface Sized {
  readonly storage: Storage
  /** For each shape the pages to ask for, in turn. */
  readonly pages: readonly (readonly PageQuery[])[]
}

async function prepare(driver: Driver, rows: number): Promise<Sized> {
  const storage = createStorage(driver)
  await fill(storage, rows)
  const pages = shapes.map(async ({ query, depths }) => {
    const cursors = depths.map((depth) => cursorAt(storage, query, Math.floor(rows * depth)))
    if (!cursors.length) return [query]
    return (await Promise.all(cursors)).map((cursor) => ({ ...query, cursor }))
  })
  return { storage, pages: await Promise.all(pages) }
}

/** Microseconds that one page took. */
async function timePage({ storage, pages }: Sized, shape: number, n: number): Promise<number> {
  const choice = pages[shape] as readonly PageQuery[]
  const query = choice[n % choice.length] as PageQuery
  const start = process.hrtime.bigint()
  const { rows } = await storage.list({ resource: executions, tenant }, query)
  const taken = Number(process.hrtime.bigint() - start) / 1000
  if (rows.length !== query.limit) throw new Error(`a page of ${rows.length} rows`)
  return taken
}

/** The median page of each size; the sizes take turns page by page. */
async function runRound(small: Sized, large: Sized, shape: number): Promise<[number, number]> {
  const times: [number[], number[]] = [[], []]
  for (let page = 0; page < pagesPerRound; page++) {
    const turns = page % 2 ? [0, 1] : [1, 0]
    for (const turn of turns)
      times[turn as 0 | 1].push(await timePage(turn ? large : small, shape, page))
  }
  return [quantile(times[0], 0.5), quantile(times[1], 0.5)]
}

interface Comparison {
  readonly few: number
  readonly many: number
  /** Of the rounds' ratios: the median, and the quartles around it. */
  readonly ratio: number
  readonly low: number
  readonly high: number
}

async function compare(small: Sized, large: Sized, shape: number): Promise<Comparison> {
  for (let round = 0; round < warmUpRounds; round++) await runRound(small, large, shape)
  const times: [number, number][] = []
  for (let round = 0; round < rounds; round++) times.push(await runRound(small, large, shape))
  const ratios = times.map(([a, b]) => b / a)
  return {
    few: quantile(
      times.map(([a]) => a),
      0.5
    ),
    many: quantile(
      times.map(([, b]) => b),
      0.5
    ),
    ratio: quantile(ratios, 0.5),
    low: quantile(ratios, 0.25),
    high: quantile(ratios, 0.75)
  }
}

function quantile(values: readonly number[], part: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.round((sorted.length - 1) * part)] as number
}

function print(...cells: (string | number)[]): void {
  process.stdout.write(`| ${cells.join(' | ')} |\n`)
}

const count = (n: number) => n.toLocaleString('en')
process.stdout.write(`Node ${process.version}, ${cpus()[0]?.model}, ${cpus().length} cores\n\n`)
print(
  'storage',
  'page of 50',
  `µs among ${count(few)}`,
  `µs among ${count(many)}`,
  'ratio (median)',
  'middle half'
)
print('---', '---', '---:', '---:', '---:', '---:')

let worst = 0
for (const { name, open } of kinds) {
  const places = [await open(), await open()] as const
  const small = await prepare(places[0].driver, few)
  const large = await prepare(places[1].driver, many)
  for (const [shape, { name: page, informative }] of shapes.entries()) {
    const found = await compare(small, large, shape)
    if (!informative) worst = Math.max(worst, found.ratio)
    print(
      name,
      page,
      found.few.toFixed(0),
      found.many.toFixed(0),
      found.ratio.toFixed(2),
      `${found.low.toFixed(2)} to ${found.high.toFixed(2)}`
    )
  }
  for (const { storage } of [small, large]) await storage.close()
  for (const { dispose } of places) await dispose()
}

if (worst > allowed) {
  process.stderr.write(`A page costs ${worst.toFixed(2)} times as much; ${allowed} is allowed.\n`)
  process.exitCode = 1
}
