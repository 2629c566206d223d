import { randomInt } from 'node:crypto'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import t from 'tap'
import Database, { type Connection } from '../../adapters/storage/better-sqlite3.js'
import type { Child } from '../support/child-process.js'
import { addressOf, buildServer, startBuiltServer } from '../support/server.js'
import { temporaryFolder } from '../support/storages.js'

/**
 * Kills the real server with SIGKILL while this process writes to it over HTTP, starts it again on
 * the same file, and looks for everything that was acknowledged.
 */
const rounds = Number(process.env.DURABILITY_ROUNDS || 50)
const seed = Number(process.env.DURABILITY_SEED || randomInt(2 ** 31))
const WRITERS = 6
/** A round is killed after one to so many answers, and at most so many milliseconds later. */
const MOST_ANSWERS = 80
const MOST_LOAD_MS = 20
/** Every so many rounds another server is killed while it starts: the first on no file at all. */
const STARTS_KILLED = 10
/** Longest time that such a server gets: about what it takes to listen. */
const MOST_START_MS = 600

/** What is done to each flow, one after the other; its name counts the steps. */
const steps = [
  { method: 'POST', action: 'flow.create' },
  { method: 'PATCH', action: 'flow.update' },
  { method: 'PATCH', action: 'flow.update' },
  { method: 'DELETE', action: 'flow.delete' }
] as const

/** A flow, and how far its writer knows that it came. */
interface WrittenFlow {
  readonly id: string
  /** The request ids of the steps that were acknowledged. */
  readonly acknowledged: string[]
  /** Whether another step was sent and nobody answered it. */
  inDoubt: boolean
}

interface Registered {
  readonly token: string
  readonly userId: string
  readonly requestId: string
}

/** What was done between a start and the kill. */
interface Round {
  readonly since: string
  readonly flows: WrittenFlow[]
  readonly registered: Registered[]
}

interface Entry {
  readonly action: string
  readonly resource_id: string
  readonly request_id: string
}

// Each round waits for a server to start, as long as that takes on this machine.
t.setTimeout(1_200_000)

t.test(`${rounds} kills lose nothing that was acknowledged`, async (t) => {
  t.comment(`DURABILITY_ROUNDS=${rounds} DURABILITY_SEED=${seed}`)
  const delays = (most: number) => fc.sample(fc.noBias(fc.nat(most)), { seed, numRuns: rounds })
  const [loads, starts] = [delays(MOST_LOAD_MS), delays(MOST_START_MS)]
  const answers = delays(MOST_ANSWERS - 1)
  const folder = temporaryFolder(t)
  const file = join(folder, 'app.db')
  const env = { SQLITE_PATH: file, LOG_LEVEL: 'silent', AUTH_RATE_LIMIT_PER_MINUTE: '1000000' }
  await buildServer()

  let kills = 0
  async function kill(child: Child): Promise<void> {
    child.signal('SIGKILL')
    await child.ended()
    kills++
  }

  let last: Registered | undefined
  let before: Round | undefined
  const all: WrittenFlow[] = []
  let registrations = 0

  async function check(round: number, api: string): Promise<void> {
    t.equal(integrityOf(file), 'ok', `round ${round}: integrity_check`)
    if (last && before)
      t.strictSame(await faultsOf(api, last.token, before), [], `round ${round}: reads back`)
  }

  for (let round = 0; round < rounds; round++) {
    if (round % STARTS_KILLED === 0) {
      const early = startBuiltServer(t, folder, env)
      await sleep(starts[round])
      await kill(early)
    }
    const child = startBuiltServer(t, folder, env)
    const api = await addressOf(child)
    await check(round, api)
    last ??= await register(api, 'the writer')

    const now: Round = { since: new Date().toISOString(), flows: [], registered: [] }
    const load = startLoad(api, last.token, `r${round}`, now)
    await load.answered(1 + (answers[round] as number))
    await sleep(loads[round])
    await kill(child)
    await load.ended
    all.push(...now.flows)
    registrations += now.registered.length
    before = now
  }

  const api = await addressOf(startBuiltServer(t, folder, env))
  const { token } = last as Registered
  await check(rounds, api)
  const whole = { since: '2000-01-01T00:00:00Z', flows: all, registered: [] }
  t.strictSame(await faultsOf(api, token, whole), [], 'everything is still there at the end')
  t.strictSame(halves(file), [], 'no tenant without its admin, no row without its audit entry')

  const writes = all.reduce((sum, { acknowledged }) => sum + acknowledged.length, registrations)
  t.ok(writes >= rounds, 'every round wrote something')
  t.comment(
    `${kills} kills, ${writes} acknowledged writes checked (${registrations} of them registrations), ` +
      `${all.filter(({ inDoubt }) => inDoubt).length} writes without an answer`
  )
})

/** Writes from several connections until the server is gone. */
function startLoad(api: string, token: string, prefix: string, round: Round) {
  let next = 0
  let answers = 0
  const waiting = new Set<() => void>()

  function count(): void {
    answers++
    for (const look of waiting) look()
  }

  async function writeFlows(): Promise<void> {
    for (;;) {
      const flow: WrittenFlow = { id: `${prefix}.${next++}`, acknowledged: [], inDoubt: false }
      round.flows.push(flow)
      for (const [index, { method }] of steps.entries()) {
        const url = method === 'POST' ? `${api}/flows` : `${api}/flows/${flow.id}`
        const name = String(index + 1)
        const body = { POST: { id: flow.id, name }, PATCH: { name }, DELETE: undefined }[method]
        flow.inDoubt = true
        const requestId = await send(method, url, token, body)
        flow.inDoubt = false
        flow.acknowledged.push(requestId)
        count()
      }
    }
  }

  async function registerTenants(): Promise<void> {
    for (;;) round.registered.push(await register(api, `${prefix}.${next++}`))
  }

  // What `fetch` throws where the connection broke.
  const gone = (error: unknown) => {
    if (!(error instanceof TypeError)) throw error
  }
  const writers = [registerTenants(), ...Array.from({ length: WRITERS }, writeFlows)]
  const ended = Promise.all(writers.map((writer) => writer.catch(gone)))

  function answered(enough: number): Promise<void> {
    return new Promise((resolve) => {
      waiting.add(() => answers >= enough && resolve())
    })
  }

  return {
    answered: (enough: number) => Promise.race([answered(enough), ended]),
    ended
  }
}

/** @returns the id of the request, once the answer is there as a whole. */
async function send(method: string, url: string, token: string, body?: object): Promise<string> {
  const answer = await fetch(url, {
    method,
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    body: JSON.stringify(body ?? {})
  })
  const text = await answer.text()
  if (!answer.ok) throw new Error(`${method} ${url}: ${answer.status} ${text}`)
  return answer.headers.get('x-request-id') as string
}

async function register(api: string, tenant_name: string): Promise<Registered> {
  const answer = await fetch(`${api}/auth/register`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      tenant_name,
      name: 'Ada',
      email: `${tenant_name.replace(' ', '.')}@example.com`,
      password: `the password of ${tenant_name}`
    })
  })
  const { token, user } = (await answer.json()) as { token: string; user: { id: string } }
  if (!answer.ok) throw new Error(`register: ${answer.status}`)
  const requestId = answer.headers.get('x-request-id') as string
  return { token, userId: user.id, requestId }
}

/** What the API, started again, shows otherwise than the writers were told. */
async function faultsOf(api: string, token: string, round: Round): Promise<string[]> {
  const period = `since=${encodeURIComponent(round.since)}`
  const entries = new Map<string, Entry[]>()
  for (const entry of await readAll<Entry>(`${api}/audit?order=asc&${period}`, token)) {
    const ofRow = entries.get(entry.resource_id) ?? []
    entries.set(entry.resource_id, [...ofRow, entry])
  }
  const rows = await readAll<{ id: string; name: string }>(`${api}/flows?order=desc`, token)
  const names = new Map(rows.map(({ id, name }) => [id, name]))
  const ofFlows = round.flows.map((flow) =>
    faultOf(flow, entries.get(flow.id) ?? [], names.get(flow.id))
  )
  const ofRegistrations = await Promise.all(
    round.registered.map((registered) => registrationFault(api, registered))
  )
  return [...ofFlows, ...ofRegistrations].filter((fault) => fault !== undefined)
}

/** The entries say how many steps were stored: the row must have come as far, and no step be lost. */
function faultOf(flow: WrittenFlow, entries: readonly Entry[], name: string | undefined) {
  const { id, acknowledged, inDoubt } = flow
  const stored = entries.length
  const expected = stored === 0 || stored === steps.length ? undefined : String(stored)
  const story = `${id}: ${acknowledged.length} acknowledged, ${stored} audit entries, name ${name}`
  if (stored < acknowledged.length || stored > acknowledged.length + Number(inDoubt)) return story
  if (name !== expected) return story
  const told = entries.every(
    ({ action, request_id }, step) =>
      action === steps[step]?.action &&
      (acknowledged[step] === undefined || acknowledged[step] === request_id)
  )
  return told ? undefined : `${story}: not as told`
}

async function registrationFault(api: string, { token, userId, requestId }: Registered) {
  const entries = await readAll<Entry>(`${api}/audit?order=asc`, token)
  const made = entries.filter(({ request_id }) => request_id === requestId)
  const actions = made.map(({ action }) => action).sort()
  if (actions.join() !== 'tenant.create,user.create') return `user ${userId}: ${actions.join()}`
  return made.some(({ resource_id }) => resource_id === userId) ? undefined : `user ${userId}: lost`
}

async function readAll<Row>(url: string, token: string): Promise<Row[]> {
  const rows: Row[] = []
  let page: string | undefined = `${url}&limit=250`
  while (page) {
    const answer = await fetch(page, { headers: { authorization: `Bearer ${token}` } })
    if (!answer.ok) throw new Error(`${page}: ${answer.status} ${await answer.text()}`)
    rows.push(...((await answer.json()) as Row[]))
    const [, next] = /<(.+)>; rel="next"/.exec(answer.headers.get('link') ?? '') ?? []
    page = next && new URL(next, page).href
  }
  return rows
}

function integrityOf(file: string): unknown {
  return inFile(file, (db) => db.pragma('integrity_check', { simple: true }))
}

/** Rows of a commit whose other rows are missing. */
function halves(file: string): unknown[] {
  return inFile(file, (db) =>
    db
      .prepare(
        `select 'tenant ' || id as half from tenants
           where not exists (select 1 from users where tenant_id = tenants.id)
         union all select 'user ' || id from users
           where not exists (select 1 from audit where tenant_id = users.tenant_id
             and resource_id = users.id and action = 'user.create')
         union all select 'flow ' || id from flows
           where not exists (select 1 from audit where tenant_id = flows.tenant_id
             and resource_id = flows.id and version = flows.version)`
      )
      .pluck()
      .all()
  )
}

function inFile<T>(file: string, look: (db: Connection) => T): T {
  const db = new Database(file)
  try {
    return look(db)
  } finally {
    db.close()
  }
}
