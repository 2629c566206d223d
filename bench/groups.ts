import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Child, startChild } from '../test/support/child-process.js'
import { type LocalSupabase, startSupabase } from '../test/support/supabase-stack.js'
import { compare, type Effort, type Load, quantile, type Side, send, spreadOf } from './compare.js'
import { measureLlm } from './llm.js'
import { SAMPLING_MICROSECONDS } from './peers/profiler.mjs'
import {
  type Memory,
  type Profile,
  profileIn,
  profileOfMemory,
  profileUnderLoad,
  withProfile
} from './profile.js'
import type { Row } from './results.js'
import {
  countRows,
  loadsAt,
  loadsOfOwn,
  loadsOfPostgrest,
  newTemplate,
  nodeOptions,
  portOf,
  production,
  residentSize,
  type Server,
  startPeer,
  supabaseEnvironment,
  withServers
} from './servers.js'
import { measureSizes, type SizesExtent } from './sizes.js'
import { measureStorageSizes, type StorageSizesExtent } from './storage-sizes.js'

/** How much a run may take. */
export interface Extent extends Effort {
  readonly memoryRows: number
  readonly storedRows: number
  readonly residentRequests: number
  readonly starts: number
  /** Calls of one caller who asks one after the other. */
  readonly sequentialCalls: number
  readonly sizes: SizesExtent
  readonly storageSizes: StorageSizesExtent
}

export interface Group {
  readonly name: string
  readonly title: string
  /** Whether a quick look leaves it out, unless it is named. */
  readonly long?: true
  run(extent: Extent): Promise<Row[]>
}

export const groups: readonly Group[] = [
  { name: 'memory', title: 'Memory', run: inFolder(measureMemory) },
  { name: 'sqlite', title: 'SQLite', run: inFolder(measureSqlite) },
  { name: 'postgres', title: 'Postgres and Supabase', run: inFolder(measurePostgres) },
  { name: 'start', title: 'Start', run: inFolder(measureStart) },
  { name: 'resident', title: 'Resident memory', long: true, run: inFolder(measureResident) },
  {
    name: 'processes',
    title: 'Processes on one Postgres',
    long: true,
    run: inFolder(measureProcesses)
  },
  { name: 'llm', title: 'LLM', long: true, run: inFolder(measureLlm) },
  {
    name: 'sizes',
    title: 'Cost against size',
    long: true,
    run: inFolder(({ sizes }, folder) => measureSizes(sizes, folder))
  },
  {
    name: 'storage-sizes',
    title: 'Cost against size, at the storage',
    long: true,
    run: ({ storageSizes }) => measureStorageSizes(storageSizes)
  }
]

type Measure = (extent: Extent, folder: string) => Promise<Row[]>

/** Databases and logs go to a folder that goes with the run. */
function inFolder(measure: Measure) {
  return async (extent: Extent): Promise<Row[]> => {
    const folder = await mkdtemp(join(tmpdir(), 'bench-'))
    try {
      return await measure(extent, folder)
    } finally {
      await rm(folder, { recursive: true, force: true })
    }
  }
}

async function measureMemory(extent: Extent, folder: string): Promise<Row[]> {
  const BENCH_ROWS = `${extent.memoryRows}`
  return withServers(
    [
      startPeer('own', folder, { STORAGE: 'memory', BENCH_ROWS }),
      startPeer('fastify', folder, { BENCH_ROWS })
    ],
    async ([own, floor]) => {
      const ours = loadsOfOwn(own)
      const bare = loadsAt(`${floor.url}/templates`)
      const among = `of ${extent.memoryRows.toLocaleString('en')}`
      return [
        await besidePeer(
          { what: 'memory: GET one, signed in', beside: 'bare Fastify, not signed in' },
          { least: 0.8 },
          [own, await ours.get()],
          sideOf(floor, await bare.get()),
          extent
        ),
        await besidePeer(
          { what: `memory: GET a page of 50 ${among}`, beside: 'bare Fastify, an array slice' },
          { least: 0.8 },
          [own, await ours.page()],
          sideOf(floor, await bare.page()),
          extent
        ),
        await besidePeer(
          { what: 'memory: POST, validated and audited', beside: 'bare Fastify into a Map' },
          { least: 0.6 },
          [own, ours.post()],
          sideOf(floor, bare.post()),
          extent
        )
      ]
    }
  )
}

async function measureSqlite(extent: Extent, folder: string): Promise<Row[]> {
  const BENCH_ROWS = `${extent.storedRows}`
  const SQLITE_PATH = join(folder, 'own.db')
  const BENCH_SQLITE = join(folder, 'floor.db')
  return withServers(
    [
      startPeer('own', folder, { SQLITE_PATH, BENCH_ROWS }),
      startPeer('fastify', folder, { BENCH_SQLITE, BENCH_ROWS }),
      startPeer('express', folder, {}),
      startPeer('express', folder, { BENCH_LOGGER: 'pino-http' })
    ],
    async ([own, floor, ...expresses]) => {
      const ours = loadsOfOwn(own)
      const bare = loadsAt(`${floor.url}/templates`)
      const found = [
        await besidePeer(
          { what: 'SQLite: GET one, signed in', beside: 'bare Fastify, a prepared get' },
          { least: 0.8 },
          [own, await ours.get()],
          sideOf(floor, await bare.get()),
          extent
        )
      ]
      const post = 'SQLite: POST, durable and audited'
      const peers: [string, number, Server][] = [
        ['bare Fastify, a transaction each', 3, floor],
        ['Express into an array, a lean line of log', 2, expresses[0]],
        ['Express into an array, logged by pino-http', 2, expresses[1] as Server]
      ]
      for (const [beside, least, peer] of peers) {
        const theirs = loadsAt(`${peer.url}/templates`).post()
        found.push(
          await besidePeer(
            { what: post, beside },
            { least },
            [own, ours.post()],
            sideOf(peer, theirs),
            extent
          )
        )
      }
      return found
    }
  )
}

async function measurePostgres(extent: Extent, folder: string): Promise<Row[]> {
  const stack = await startSupabase()
  try {
    const BENCH_ROWS = `${extent.storedRows}`
    const DATABASE_URL = stack.server.url(stack.database)
    const supabase = supabaseEnvironment(stack)
    const onPostgres = await startPeer('own', folder, { DATABASE_URL, BENCH_ROWS })
    await stack.server.query(stack.database, createForPostgrest(onPostgres.tenant))
    await stack.server.query(stack.database, 'vacuum analyze')
    return await withServers([onPostgres, startPeer('own', folder, supabase)], (servers) =>
      besidePostgrest(servers, stack, extent)
    )
  } finally {
    await stack.dispose()
  }
}

async function besidePostgrest(servers: readonly Server[], stack: LocalSupabase, extent: Extent) {
  const rows: Row[] = []
  const [{ tenant }] = servers as [Server]
  const url = `http://127.0.0.1:${portOf(stack)}`
  const theirs = loadsOfPostgrest(url, tenant, stack.legacyKeys.service_role)
  for (const [index, own] of servers.entries()) {
    const name = index === 0 ? 'Postgres' : 'Supabase'
    const reach = { least: index === 0 ? 2 : 0.6 }
    const beside = index === 0 ? 'PostgREST' : 'PostgREST, called directly'
    const ours = loadsOfOwn(own)
    for (const [what, kind] of [
      ['GET one', 'get'],
      ['GET a page of 50', 'page'],
      ['POST, audited', 'post']
    ] as const) {
      const names = {
        what: `${name}: ${what}`,
        beside: kind === 'post' ? `${beside}, an rpc` : beside
      }
      const peer = { load: await theirs[kind]() }
      rows.push(await besidePeer(names, reach, [own, await ours[kind]()], peer, extent))
    }
  }
  return rows
}

/** What a project would write that has PostgREST alone: a row and its audit entry at once. */
function createForPostgrest(tenant: string): string {
  return `
    create function public.bench_create_template(name text, description text, definition jsonb)
      returns jsonb language plpgsql security definer set search_path = '' as $$
    declare
      made public.templates;
    begin
      insert into public.templates values ('${tenant}', 'tpl_' || gen_random_uuid(),
        bench_create_template.name, bench_create_template.description,
        bench_create_template.definition, now(), now(), 1) returning * into made;
      insert into public.audit values ('${tenant}', gen_random_uuid(), 'bench', 'template.create',
        'templates', made.id, '["definition", "description", "id", "name"]', now(), null,
        now(), now(), 1);
      return to_jsonb(made);
    end $$;
    grant execute on function public.bench_create_template to service_role;
    notify pgrst, 'reload schema'`
}

/** No start may take longer, whatever the import of Fastify takes. */
const MOST_START_MS = 800

/** From the start of the process to the first answer, as \`npm start\` does after its build. */
async function measureStart({ starts }: Extent, folder: string): Promise<Row[]> {
  const server = fileURLToPath(new URL('../dist/src/server.js', import.meta.url))
  const root = fileURLToPath(new URL('..', import.meta.url))
  const times: Record<'memory' | 'sqlite' | 'fastify', number[]> = {
    memory: [],
    sqlite: [],
    fastify: []
  }
  const storages = {
    memory: { STORAGE: 'memory' },
    sqlite: { SQLITE_PATH: join(folder, 'start.db') }
  }
  // The first round makes the file and warms the system's caches.
  for (let round = 0; round <= starts; round++) {
    const found = {
      fastify: await timeToEnd(['--input-type=module', '-e', "import 'fastify'"], root),
      memory: await timeToAnswer(server, folder, storages.memory),
      sqlite: await timeToAnswer(server, folder, storages.sqlite)
    }
    if (round === 0) continue
    for (const name of ['memory', 'sqlite', 'fastify'] as const) times[name].push(found[name])
  }
  const rows: Row[] = []
  for (const name of ['memory', 'sqlite'] as const) {
    const what = `start to first answer, ${name}`
    const taken = times[name]
    const beside = taken.map((time, round) => time / (times.fastify[round] as number))
    const ofMost = taken.map((time) => time / MOST_START_MS)
    const note = `${(quantile(taken, 0.5) / 1000).toFixed(2)} s`
    const judged: Row[] = [
      { what, beside: 'node importing fastify', ratio: spreadOf(beside), reach: { most: 4 }, note },
      { what, beside: `${MOST_START_MS} ms`, ratio: spreadOf(ofMost), reach: { most: 1 }, note }
    ]
    let profile: Promise<Profile> | undefined
    const profileOnce = () => (profile ??= profileOfStart(server, folder, storages[name]))
    for (const row of judged) rows.push(await withProfile(row, profileOnce))
  }
  return rows
}

async function timeToEnd(args: string[], cwd: string): Promise<number> {
  const start = performance.now()
  await startChild(process.execPath, args, { cwd }).ended()
  return performance.now() - start
}

async function timeToAnswer(server: string, cwd: string, env: Record<string, string>) {
  const start = performance.now()
  const child = startOwn([server], cwd, env)
  try {
    await firstAnswer(child)
    return performance.now() - start
  } finally {
    // It has nothing to finish, and stopping in order takes its time.
    child.signal('SIGKILL')
    await child.ended()
  }
}

/** Of one more start, and of the stop in order that writes it down. */
async function profileOfStart(
  server: string,
  cwd: string,
  env: Record<string, string>
): Promise<Profile> {
  const folder = await mkdtemp(join(cwd, 'profile-'))
  const interval = `--cpu-prof-interval=${SAMPLING_MICROSECONDS}`
  const options = ['--cpu-prof', `--cpu-prof-dir=${folder}`, interval]
  const child = startOwn([...options, server], cwd, { ...env, SHUTDOWN_DELAY_MS: '0' })
  try {
    await firstAnswer(child)
  } finally {
    child.signal('SIGTERM')
    await child.ended()
  }
  return profileIn(folder)
}

function startOwn(args: readonly string[], cwd: string, env: Record<string, string>): Child {
  const { PATH = '' } = process.env
  return startChild(process.execPath, [...nodeOptions, ...args], {
    cwd,
    env: { PATH, PORT: '0', ...production, ...env }
  })
}

async function firstAnswer(child: Child): Promise<void> {
  const answer = await fetch(`${await addressOf(child)}/health`)
  if (!answer.ok) throw new Error(`/health answered ${answer.status}`)
}

async function addressOf(child: Child): Promise<string> {
  await child.wrote('/api/docs\n')
  const [, address] = /(http:\/\/\S+\/api)\/docs/.exec(child.output()) ?? []
  return address as string
}

/** What both keep in memory after many reads, and whether it grows on the way. */
async function measureResident(extent: Extent, folder: string): Promise<Row[]> {
  const BENCH_ROWS = '1000'
  const step = extent.residentRequests / 5
  return withServers(
    [
      startPeer('own', folder, { STORAGE: 'memory', BENCH_ROWS }),
      startPeer('fastify', folder, { BENCH_ROWS })
    ],
    async ([own, floor]) => {
      const ours = await residentAfterEach(own, await loadsOfOwn(own).get(), step)
      const load = await loadsAt(`${floor.url}/templates`).get()
      const bare = await residentAfterEach(floor, load, step)
      const memory = await own.ask<Memory>('memory')
      await send(await loadsOfOwn(own).get(), { amount: extent.residentRequests, connections: 50 })
      const later = await own.ask<Memory>('memory')
      const [first = 0] = ours
      const last = ours.at(-1) ?? 0
      const count = (n: number) => n.toLocaleString('en')
      const mib = (bytes: number) => (bytes / 2 ** 20).toFixed(1)
      const beside: Row = {
        what: `resident after ${count(extent.residentRequests)} requests`,
        beside: 'bare Fastify',
        ratio: exactly(last / (bare.at(-1) ?? 1)),
        reach: { most: 2 },
        note: `${last.toFixed(0)} / ${(bare.at(-1) ?? 0).toFixed(0)} MiB`
      }
      const growth: Row = {
        what: beside.what,
        beside: `itself after ${count(step)}`,
        ratio: exactly(last / first),
        // The last pages that V8 has asked for are no growth.
        reach: { most: 1.02 },
        note: `MiB on the way: ${ours.map((size) => size.toFixed(0)).join(', ')}`
      }
      const alive: Row = {
        what: `alive after ${count(2 * extent.residentRequests)} requests`,
        beside: `itself after ${count(extent.residentRequests)}`,
        ratio: exactly(later.alive / memory.alive),
        reach: { most: 1.02 },
        note: `${mib(later.alive)} / ${mib(memory.alive)} MiB after a full collection`
      }
      return [
        await withProfile(beside, () => profileOfMemory(memory)),
        await withProfile(growth, () => profileOfMemory(memory)),
        await withProfile(alive, () => profileOfMemory(later))
      ]
    }
  )
}

async function residentAfterEach(server: Server, load: Load, step: number) {
  const sizes: number[] = []
  for (let part = 0; part < 5; part++) {
    await send(load, { amount: step, connections: 50 })
    sizes.push(await residentSize(server.pid))
  }
  return sizes
}

/** Several processes share one Postgres; each has callers of its own. */
async function measureProcesses(extent: Extent, folder: string): Promise<Row[]> {
  const stack = await startSupabase()
  try {
    const DATABASE_URL = stack.server.url(stack.database)
    const first = await startPeer('own', folder, { DATABASE_URL, BENCH_ROWS: '5000' })
    const more = [1, 2, 3].map(() => startPeer('own', folder, { DATABASE_URL }))
    return await withServers([first, ...more], async (servers) => {
      const counts = [1, 2, 4]
      const rates = new Map(counts.map((count) => [count, [] as number[]]))
      for (let round = 0; round < extent.rounds; round++)
        for (const count of counts)
          rates.get(count)?.push(await rateOfAll(servers.slice(0, count), extent.seconds))
      const alone = rates.get(1) ?? []
      return [2, 4].map((count) => ({
        what: `${count} processes on one Postgres: GET one`,
        beside: 'one process',
        ratio: spreadOf((rates.get(count) ?? []).map((rate, n) => rate / (alone[n] as number))),
        reach: null
      }))
    })
  } finally {
    await stack.dispose()
  }
}

async function rateOfAll(servers: readonly Server[], seconds: number): Promise<number> {
  const loads = servers.map(async (server) =>
    send(await loadsOfOwn(server).get(), { seconds, connections: Math.floor(48 / servers.length) })
  )
  const results = await Promise.all(loads)
  return results.reduce((sum, { rate }) => sum + rate, 0)
}

/** Ours beside a peer; with a profile of ours, where it misses what it was to reach. */
async function besidePeer(
  names: Pick<Row, 'what' | 'beside'>,
  reach: Row['reach'],
  [own, ours]: [Server, Load],
  peer: Side,
  extent: Extent
): Promise<Row> {
  const found = await compare(sideOf(own, ours), peer, extent)
  if (ours.method === 'POST') await assertStored(own, ours)
  return withProfile({ ...names, reach, ...found }, () =>
    profileUnderLoad(own, ours, extent.seconds)
  )
}

/** Each answer must have left a row, as our side counts them. */
async function assertStored(own: Server, ours: Load): Promise<void> {
  const before = await settledCount(own)
  const { right } = await send(ours, { amount: 500, connections: 50 })
  const stored = (await countRows(own)) - before
  if (stored !== right) throw new Error(`${right} rows were created, ${stored} are there`)
  const id = await idOfCreated(own)
  if (!id.startsWith('tpl_')) throw new Error(`the created row is ${id}`)
}

/** What callers of before left may still be stored after they are gone. */
async function settledCount(own: Server): Promise<number> {
  let count = await countRows(own)
  for (let last = -1; last !== count; ) {
    last = count
    count = await countRows(own)
  }
  return count
}

async function idOfCreated({ url, token }: Server): Promise<string> {
  const answer = await fetch(`${url}/api/templates`, {
    method: 'POST',
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    body: JSON.stringify(newTemplate)
  })
  const { id, name } = (await answer.json()) as { id: string; name: string }
  return name === newTemplate.name ? id : 'another'
}

function sideOf({ pid }: Server, load: Load): Side {
  return { load, pid }
}

function exactly(value: number) {
  return { median: value, low: value, high: value }
}
