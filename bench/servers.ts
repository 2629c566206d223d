import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { openSync, readFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { packageFile } from '../adapters/package-files.js'
import type { LocalSupabase } from '../test/support/supabase-stack.js'
import { ask } from './ask.js'
import type { Load } from './compare.js'

/** A server that the bench started, as it announced itself. */
export interface Server {
  readonly url: string
  readonly pid: number
  /** Of ours: who is signed in, and where. */
  readonly token: string
  readonly tenant: string
  /** Asks `peers/inside.mjs`, which ours has. */
  ask<T>(question: 'profile' | 'memory', seconds?: number): Promise<T>
  stop(): Promise<void>
}

type Environment = Readonly<Record<string, string>>

export const production = {
  NODE_ENV: 'production',
  AUTH_SECRET: randomBytes(32).toString('base64'),
  ENCRYPTION_KEY: randomBytes(32).toString('base64')
}

/** The options that `npm start` gives to Node for our server. */
export const nodeOptions: readonly string[] = startScript().match(/--\S+/g) ?? []

function startScript(): string {
  const file = readFileSync(packageFile('package.json'), 'utf8')
  return (JSON.parse(file) as { scripts: { start: string } }).scripts.start
}

/**
 * Starts a program of `bench/peers`, as it was built, with nothing else in its environment; its log
 * goes to a file of the folder. Ended with this process at the latest.
 */
export async function startPeer(name: string, folder: string, env: Environment): Promise<Server> {
  const program = fileURLToPath(packageFile(`dist/bench/peers/${name}.js`))
  const log = openSync(join(folder, `${name}-${randomBytes(4).toString('hex')}.log`), 'w')
  const { PATH = '' } = process.env
  const child = spawn(process.execPath, [...(name === 'own' ? nodeOptions : []), program], {
    cwd: folder,
    env: { PATH, ...production, ...env },
    stdio: ['ignore', log, 'pipe', 'ipc']
  })
  const endWithUs = () => child.kill('SIGKILL')
  process.on('exit', endWithUs)
  child.once('exit', () => process.off('exit', endWithUs))
  const announced = await announcementOf(child)
  return {
    ...announced,
    ask: (question, seconds) => ask(child, { question, seconds }),
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) return
      child.kill('SIGKILL')
      await once(child, 'exit')
    }
  }
}

function announcementOf(child: ChildProcess): Promise<Server> {
  return new Promise((resolve, reject) => {
    let text = ''
    child.stderr?.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk
      const line = /^\{.*\}$/m.exec(text)
      if (line) resolve(JSON.parse(line[0]))
    })
    child.once('close', () => reject(new Error(`The server ended before it listened:\n${text}`)))
  })
}

const id = 'tpl_0000500'
export const newTemplate = {
  name: 'Welcome e-mail',
  description: 'Greets a new customer.',
  definition: { steps: [{ send: 'welcome' }, { wait: 60 }, { send: 'reminder' }] }
}

/** The three requests that are compared. */
export interface Loads {
  get(): Promise<Load>
  page(): Promise<Load>
  post(): Load
}

export function loadsOfOwn({ url, token }: Server): Loads {
  return loadsAt(`${url}/api/templates`, { authorization: `Bearer ${token}` })
}

/** Of a server with the same addresses as ours. */
export function loadsAt(url: string, headers: Environment = {}): Loads {
  return {
    get: () => alwaysAnswered({ url: `${url}/${id}`, headers, status: 200 }),
    page: () => alwaysAnswered({ url: `${url}?limit=50`, headers, status: 200 }),
    post: () => postLoad(url, newTemplate, headers)
  }
}

/** Of PostgREST, which answers the same columns of the same rows. */
export function loadsOfPostgrest(url: string, tenant: string, key: string): Loads {
  const headers = { authorization: `Bearer ${key}` }
  const one = { ...headers, accept: 'application/vnd.pgrst.object+json' }
  const select = 'select=id,name,description,definition,created_at,updated_at,version'
  const rows = `${url}/templates?tenant_id=eq.${tenant}&${select}`
  const list = `${rows}&order=created_at.desc,id.desc&limit=50`
  return {
    get: () => alwaysAnswered({ url: `${rows}&id=eq.${id}`, headers: one, status: 200 }),
    page: () => alwaysAnswered({ url: list, headers, status: 200 }),
    post: () => ({
      ...postLoad(`${url}/rpc/bench_create_template`, newTemplate, headers),
      status: 200
    })
  }
}

function postLoad(url: string, value: object, headers: Environment): Load {
  const json = { ...headers, 'content-type': 'application/json' }
  return { url, method: 'POST', headers: json, body: JSON.stringify(value), status: 201 }
}

/** Expects the body that is there now, after a look at it. */
async function alwaysAnswered(load: Load): Promise<Load> {
  const answer = await fetch(load.url, { headers: { ...load.headers } })
  const expected = await answer.text()
  const value: unknown = answer.ok ? JSON.parse(expected) : null
  const right = Array.isArray(value) ? value.length === 50 : (value as { id?: string })?.id === id
  if (!right) throw new Error(`${load.url} answers ${answer.status} ${expected}`)
  return { ...load, expected }
}

/** Requests of ours go to PostgREST as straight as the peer's: the gateway is no part of either. */
export function supabaseEnvironment(stack: LocalSupabase) {
  return {
    SUPABASE_URL: stack.url,
    SUPABASE_SERVICE_ROLE_KEY: stack.legacyKeys.service_role,
    BENCH_POSTGREST: `${portOf(stack)}`
  }
}

export function portOf({ postgrest }: LocalSupabase): number {
  return (postgrest as unknown as { port: number }).port
}

/** How many rows there are, by the count that the API gives. */
export async function countRows({ url, token }: Server): Promise<number> {
  const headers = { authorization: `Bearer ${token}` }
  const answer = await fetch(`${url}/api/templates?limit=1&count=exact`, { headers })
  return Number(answer.headers.get('x-total-count'))
}

/** Runs with servers and stops them all, whatever happens. */
export async function withServers<T>(
  starting: readonly (Server | Promise<Server>)[],
  run: (servers: [Server, Server, Server, ...Server[]]) => Promise<T>
): Promise<T> {
  const settled = await Promise.allSettled(starting)
  const servers = settled.flatMap((each) => (each.status === 'fulfilled' ? [each.value] : []))
  try {
    const failed = settled.find((each) => each.status === 'rejected')
    if (failed) throw failed.reason
    return await run(servers as never)
  } finally {
    for (const server of servers) await server.stop()
  }
}

/** Mebibytes. */
export async function residentSize(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) / 1024
}
