import { randomInt } from 'node:crypto'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import t from 'tap'
import type { Child } from '../support/child-process.js'
import { addressOf, startServer } from '../support/server.js'
import { temporaryFolder } from '../support/storages.js'
import {
  faultsOf,
  halves,
  integrityOf,
  type Registered,
  type Round,
  register,
  send,
  steps,
  type WrittenFlow
} from '../support/witnessed-writes.js'

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
      const early = startServer(t, folder, env)
      await sleep(starts[round])
      await kill(early)
    }
    const child = startServer(t, folder, env)
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

  const api = await addressOf(startServer(t, folder, env))
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
