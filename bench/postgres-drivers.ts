import { createRequire } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import pg from 'pg'
import type { TenantId } from '../adapters/storage/port.js'
import { openPostgres } from '../adapters/storage/postgres.js'
import { PAGE_SIZE } from '../adapters/storage/storage.js'
import { templates } from '../schemas/templates.js'
import { startPostgres } from '../test/support/postgres-stack.js'

/**
 * Times the same two reads through several Postgres drivers: a row by its key, and a page of 50
 * from the middle of a list. Drivers that this project does not depend on are found in the folder
 * that BENCH_MODULES names; docs/decisions/0003-postgres-driver.md says how to make it.
 *
 *   npx tsx bench/postgres-drivers.ts [rows]
 */

const rows = Number(process.argv[2] ?? 100_000)
const tenant = '019b76da-a800-7000-8000-000000000001' as TenantId
const columns = 'tenant_id, id, name, description, definition, created_at, updated_at, version'
const getSql = `select ${columns} from public.templates where tenant_id = $1 and id = $2`
const pageSql = `select ${columns} from public.templates
  where tenant_id = $1 and (created_at, id) < ($2::timestamptz, $3)
  order by created_at desc, id desc limit 50`

interface Place {
  readonly at: string
  readonly key: string
}

interface Contender {
  readonly name: string
  get(key: string): Promise<unknown>
  page(after: Place): Promise<unknown>
  close(): Promise<unknown>
}

const POOL = 10
const RUNS = 5
const GETS = 4000
const PAGES = 600

function place(n: number): Place {
  const number = Math.abs((n * 7919) % rows)
  return { at: new Date(Date.UTC(2026, 0, 1) + number).toISOString(), key: `tpl_${number}` }
}

async function driverContender(url: string): Promise<Contender> {
  const driver = await openPostgres({ url, poolSize: POOL })
  const query = {
    filter: new Map(),
    since: undefined,
    until: undefined,
    order: 'desc',
    limit: 50,
    size: PAGE_SIZE,
    count: false
  } as const
  return {
    name: 'this adapter (pg, named)',
    get: (key) => driver.get(templates, tenant, key),
    page: (after) => driver.page(templates, tenant, { ...query, after }),
    close: () => driver.close()
  }
}

function pgContender(url: string, named: boolean): Contender {
  const pool = new pg.Pool({ connectionString: url, max: POOL })
  const statement = (name: string, text: string) => (named ? { name, text } : { text })
  return {
    name: named ? 'pg, named statements' : 'pg, unnamed statements',
    get: (key) => pool.query({ ...statement('get', getSql), values: [tenant, key] }),
    page: ({ at, key }) => pool.query({ ...statement('page', pageSql), values: [tenant, at, key] }),
    close: () => pool.end()
  }
}

/** Imports a package of BENCH_MODULES, or nothing where it is not there. */
// biome-ignore lint/suspicious/noExplicitAny: packages without types here
async function optional(name: string): Promise<any> {
  const folder = process.env.BENCH_MODULES
  if (!folder) return undefined
  const require = createRequire(pathToFileURL(join(folder, 'package.json')))
  return import(pathToFileURL(require.resolve(name)).href)
}

async function postgresJsContender(url: string): Promise<Contender | undefined> {
  const sql = (await optional('postgres'))?.default(url, { max: POOL })
  if (!sql) return undefined
  return {
    name: 'postgres.js',
    get: (key) => sql.unsafe(getSql, [tenant, key], { prepare: true }),
    page: ({ at, key }) => sql.unsafe(pageSql, [tenant, at, key], { prepare: true }),
    close: () => sql.end()
  }
}

async function prismaContender(url: string): Promise<Contender | undefined> {
  const client = await optional('@prisma/client')
  const adapter = await optional('@prisma/adapter-pg')
  if (!client || !adapter) return undefined
  const PrismaClient = client.PrismaClient ?? client.default.PrismaClient
  const prisma = new PrismaClient({
    adapter: new adapter.PrismaPg({ connectionString: url, max: POOL })
  })
  return {
    name: 'Prisma with its pg adapter',
    get: (id) =>
      prisma.templates.findUnique({ where: { tenant_id_id: { tenant_id: tenant, id } } }),
    page: ({ at, key }) =>
      prisma.templates.findMany({
        where: {
          tenant_id: tenant,
          created_at: { lte: at },
          OR: [{ created_at: { lt: at } }, { created_at: at, id: { lt: key } }]
        },
        orderBy: [{ created_at: 'desc' }, { id: 'desc' }],
        take: 50
      }),
    close: () => prisma.$disconnect()
  }
}

/** Microseconds for each call, with so many under way at once. */
async function time(calls: number, width: number, call: (n: number) => Promise<unknown>) {
  let next = 0
  const start = process.hrtime.bigint()
  await Promise.all(
    Array.from({ length: width }, async () => {
      while (next < calls) await call(next++)
    })
  )
  return Number(process.hrtime.bigint() - start) / 1000 / calls
}

async function measure(contender: Contender): Promise<number[]> {
  const get = (n: number) => contender.get(place(n).key)
  const page = (n: number) => contender.page(place(n))
  return [
    await time(GETS, 1, get),
    await time(GETS, 20, get),
    await time(PAGES, 1, page),
    await time(PAGES, 20, page)
  ]
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] as number
}

const server = await startPostgres({ maxConnections: 100 })
const contenders: Contender[] = []
try {
  const database = await server.createDatabase()
  await server.query(
    database,
    `insert into public.tenants values ('${tenant}', 'Bench', now(), now(), 1);
     insert into public.templates
       select '${tenant}', 'tpl_' || n, 'Template ' || n, 'A description', '{"steps": [1, 2]}',
           timestamptz '2026-01-01Z' + n * interval '1 ms', now(), n
         from generate_series(0, ${rows - 1}) n`
  )
  await server.query(database, 'vacuum analyze public.templates')
  const url = server.url(database)
  const others = [await postgresJsContender(url), await prismaContender(url)]
  contenders.push(await driverContender(url), pgContender(url, true), pgContender(url, false))
  contenders.push(...others.filter((each) => each !== undefined))
  const [settings] = await server.query(database, 'show server_version')
  process.stdout.write(
    `Postgres ${settings?.server_version}, ${rows} rows, µs a call, median of ${RUNS}\n`
  )
  process.stdout.write(
    `${''.padEnd(28)}${['get', 'get x20', 'page', 'page x20'].map((each) => each.padStart(10)).join('')}\n`
  )
  // Turn by turn, so that what else the machine does is shared fairly; the first turn warms up.
  const runs = contenders.map((): number[][] => [])
  for (let run = 0; run <= RUNS; run++)
    for (const [i, contender] of contenders.entries()) runs[i]?.push(await measure(contender))
  for (const [i, contender] of contenders.entries()) {
    const [, ...measured] = runs[i] ?? []
    const figures = [0, 1, 2, 3].map((column) => median(measured.map((run) => run[column] ?? 0)))
    process.stdout.write(
      `${contender.name.padEnd(28)}${figures.map((each) => each.toFixed(0).padStart(10)).join('')}\n`
    )
  }
} finally {
  for (const contender of contenders) await contender.close()
  await server.dispose()
}
