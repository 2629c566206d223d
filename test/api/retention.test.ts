import { statSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { StorageError } from '../../adapters/storage/errors.js'
import type { Change, Storage, TenantId } from '../../adapters/storage/port.js'
import { SYSTEM } from '../../adapters/storage/port.js'
import { openSqlite } from '../../adapters/storage/sqlite.js'
import { createStorage } from '../../adapters/storage/storage.js'
import { uuid } from '../../adapters/uuid.js'
import { audit } from '../../schemas/audit.js'
import { executionStatuses, executions } from '../../schemas/executions.js'
import { flows } from '../../schemas/flows.js'
import { idempotencyKeys } from '../../schemas/idempotency-keys.js'
import { leases } from '../../schemas/leases.js'
import { llmUsage } from '../../schemas/llm-usage.js'
import type { AnyResource } from '../../schemas/resource.js'
import { sessions } from '../../schemas/sessions.js'
import { tenants } from '../../schemas/tenants.js'
import { users } from '../../schemas/users.js'
import { readEnvironment } from '../../src/configuration.js'
import { prune, startRetention } from '../../src/retention.js'
import { memory, temporaryFolder, testStorages } from '../support/storages.js'
import { troubledStorage } from '../support/troubled-storage.js'

const NOW = new Date('2026-06-01T12:00:00.000Z')
const DAY_MS = 24 * 60 * 60 * 1000
const MINUTE_MS = 60_000

/** An instant so many days before now. */
const ago = (days: number) => new Date(NOW.getTime() - days * DAY_MS)
const days = (count: number) => ago(count).toISOString()

type Given = readonly [name: string, resource: AnyResource, row: object, at?: Date]

/** Rows of every age, named by what should become of them. */
function rowsOf(userId: string): Given[] {
  const execution = { flow_id: 'flow' }
  return [
    ['gone', idempotencyKeys, idempotency('gone', days(0.001))],
    ['kept', idempotencyKeys, idempotency('kept', days(-0.1))],
    ['gone', sessions, session(userId, days(0.001))],
    ['kept', sessions, session(userId, days(-30)), ago(365)],
    ...executionStatuses.map((status): Given => {
      const finished = ['queued', 'running'].includes(status) ? null : days(31)
      const row = { ...execution, id: uuid(), status, finished_at: finished }
      return [finished ? 'old' : 'kept', executions, row, ago(40)]
    }),
    [
      'kept',
      executions,
      { ...execution, id: uuid(), status: 'success', finished_at: days(29) },
      ago(40)
    ],
    [
      'old',
      executions,
      { ...execution, id: uuid(), status: 'success', finished_at: days(31) },
      ago(40)
    ],
    [
      'kept',
      executions,
      { ...execution, id: uuid(), status: 'failed', finished_at: days(1) },
      ago(1)
    ],
    ['old', audit, entry(days(101))],
    ['old', audit, entry(days(100.001))],
    ['kept', audit, entry(days(99.9))],
    ['old', llmUsage, totalsOf('2026-05-01')],
    ['kept', llmUsage, totalsOf('2026-05-02')]
  ]
}

function idempotency(id: string, expires_at: string) {
  return { id, request_digest: 'digest', resource_id: 'flow', expires_at }
}

function session(user_id: string, expires_at: string) {
  return { id: uuid(), user_id, generation: 0, expires_at }
}

function entry(at: string) {
  const about = { action: 'flow.create', resource: 'flows', resource_id: 'flow' }
  return { id: uuid(), actor: 'somebody', ...about, fields: [], at }
}

function totalsOf(date: string) {
  const id = `${date}.${uuid()}`
  const counts = { calls: 1, errors: 0, prompt_tokens: 1, completion_tokens: 1 }
  const by = { user_id: uuid(), model: 'm', instance: uuid() }
  return { id, day: `${date}T00:00:00.000Z`, ...by, ...counts }
}

/** A tenant with such rows, and what is left of them. */
async function filledTenant(storage: Storage) {
  const id = uuid() as TenantId
  const userId = uuid()
  const user = { id: userId, email: `${userId}@example.com`, name: 'Ada', role: 'admin' as const }
  await storage.commit({
    tenant: id,
    changes: [
      { op: 'insert', resource: tenants, row: { id, name: id } },
      { op: 'insert', resource: users, row: user },
      { op: 'insert', resource: flows, row: { id: 'flow', name: 'Flow', status: 'active' } }
    ]
  })
  const rows = rowsOf(userId)
  for (const [, resource, row, at = ago(40)] of rows)
    await storage.commit({ tenant: id, changes: [{ op: 'insert', resource, row }], at })

  return {
    id,
    /** Names and resources of the rows that are there. */
    async left(): Promise<string[]> {
      const found: string[] = []
      for (const [name, resource, row] of rows)
        if (await storage.get({ resource, tenant: id }, (row as { id: string }).id))
          found.push(`${name} ${resource.name}`)
      return found
    },
    expected: (...kept: string[]): string[] =>
      rows
        .map(([name, { name: of }]) => [name, of])
        .flatMap(([name, of]) =>
          kept.includes(name as string) || kept.includes(`${name} ${of}`) ? [`${name} ${of}`] : []
        )
  }
}

/** Lines of a log. */
function logOf() {
  const lines: unknown[] = []
  const write =
    (level: string) =>
    (...[fields, message]: unknown[]) =>
      void lines.push(
        typeof fields === 'string'
          ? { level, message: fields }
          : { level, message, ...(fields as object) }
      )
  return { lines, info: write('info'), warn: write('warn') }
}

function settings(storage: Storage, env: Record<string, string> = {}, minutesLater = 0) {
  return {
    storage,
    env: readEnvironment({ NODE_ENV: 'test', ...env }),
    log: logOf(),
    now: () => new Date(NOW.getTime() + minutesLater * MINUTE_MS)
  }
}

const everything = {
  RETENTION_AUDIT_DAYS: '100',
  RETENTION_EXECUTIONS_DAYS: '30',
  RETENTION_LLM_USAGE_DAYS: '30'
}

function isDeletion({ changes }: { changes: readonly Change[] }): boolean {
  return changes.some(({ op }) => op === 'delete')
}

/** What an instance of the server does with a storage that others use, too. */
function instanceOn(storage: Storage, before: (batch: number) => Promise<void> = async () => {}) {
  let batches = 0
  const own: Storage = {
    ...storage,
    async commit(commit) {
      if (isDeletion(commit)) await before(++batches)
      return storage.commit(commit)
    }
  }
  return { storage: own, batches: () => batches }
}

/** A moment that a test waits for, or has others wait for. */
function gate() {
  let open = () => {}
  const passed = new Promise<void>((resolve) => {
    open = resolve
  })
  return { open: () => open(), passed }
}

for (const on of testStorages)
  t.test(`retention on ${on.kind}`, { skip: on.skip }, async (t) => {
    t.test('what is always over goes; all else stays unless told', async (t) => {
      const storage = await on.open(t)
      const made = [await filledTenant(storage), await filledTenant(storage)]
      const given = settings(storage)
      t.equal(await prune(given), 60 * MINUTE_MS)
      for (const { left, expected } of made) t.strictSame(await left(), expected('kept', 'old'))
      t.match(given.log.lines, [
        { level: 'info', pruned: { idempotency_keys: 2, sessions: 2 }, ms: Number }
      ])
    })

    t.test('nothing younger is touched, and each batch says what it did', async (t) => {
      const storage = await on.open(t)
      const made = [await filledTenant(storage), await filledTenant(storage)]
      const { storage: own, batches } = instanceOn(storage)
      const given = settings(own, { ...everything, RETENTION_BATCH_SIZE: '1' })
      await prune(given)
      t.equal(batches(), 2 * 9)
      for (const { id, left, expected } of made) {
        t.strictSame(await left(), expected('kept'))
        const { rows } = await storage.list(
          { resource: audit, tenant: id },
          { filter: { actor: 'system' }, limit: 10 }
        )
        const told = { action: 'execution.prune', resource: 'executions', fields: [] }
        t.match(rows, Array(4).fill({ ...told, resource_id: `1 before ${days(30)}` }))
      }
      t.equal(await prune(settings(storage, everything)), 60 * MINUTE_MS, 'not due again')
      t.strictSame(await prune(settings(storage, everything, 61)), 60 * MINUTE_MS)
      for (const { left, expected } of made) t.strictSame(await left(), expected('kept'))
    })

    t.test('of two instances at once one prunes', async (t) => {
      const storage = await on.open(t)
      const { left, expected } = await filledTenant(storage)
      const instances = Array.from({ length: 4 }, () => instanceOn(storage))
      await Promise.all(
        instances.map(({ storage: own }) =>
          prune(settings(own, { ...everything, RETENTION_BATCH_SIZE: '1' }))
        )
      )
      const batches = instances.map((each) => each.batches()).sort()
      t.strictSame(batches, [0, 0, 0, 9])
      t.strictSame(await left(), expected('kept'))
    })

    t.test('what an instance that died left is done by another, after a minute', async (t) => {
      const storage = await on.open(t)
      const { left } = await filledTenant(storage)
      const dying = instanceOn(storage, async (batch) => {
        if (batch === 3) throw new StorageError('unavailable')
      })
      const env = { ...everything, RETENTION_BATCH_SIZE: '1' }
      const first = settings(dying.storage, env)
      t.equal(await prune(first), MINUTE_MS)
      t.match(first.log.lines, [
        { level: 'warn', err: { code: 'unavailable' } },
        { level: 'info', pruned: { idempotency_keys: 1, sessions: 1 } }
      ])
      const before = await left()
      const early = await prune(settings(storage, env, 0.5))
      t.ok(early > 0 && early <= MINUTE_MS, 'its lease may still be meant')
      t.strictSame(await left(), before)
      t.equal(await prune(settings(storage, env, 1.1)), 60 * MINUTE_MS)
      t.equal((await left()).includes('old audit'), false)
    })

    t.test('an instance that slept while another took over stores nothing more', async (t) => {
      const storage = await on.open(t)
      const { left, expected } = await filledTenant(storage)
      const [asleep, awake] = [gate(), gate()]
      const sleeping = instanceOn(storage, async (batch) => {
        if (batch !== 3) return
        asleep.open()
        await awake.passed
      })
      const first = settings(sleeping.storage, { ...everything, RETENTION_BATCH_SIZE: '1' })
      const late = prune(first)
      await asleep.passed
      // The other leaves what the first is about to delete.
      t.equal(await prune(settings(storage, {}, 2)), 60 * MINUTE_MS)
      awake.open()
      t.equal(await late, MINUTE_MS)
      t.match(first.log.lines, [
        { level: 'info', message: /another instance/ },
        { pruned: { idempotency_keys: 1, sessions: 1 } }
      ])
      t.strictSame(await left(), expected('kept', 'old'))
    })

    t.test('rows that others change or delete meanwhile', async (t) => {
      const storage = await on.open(t)
      const { id, left, expected } = await filledTenant(storage)
      const from = { resource: sessions, tenant: id }
      const { rows } = await storage.list(from, { order: 'asc', limit: 1 })
      const [over] = rows
      const busy = instanceOn(storage, async (batch) => {
        const key = over?.id as string
        const about = { resource: idempotencyKeys, key: 'gone' } as const
        if (batch === 1) await storage.commit({ tenant: id, changes: [{ op: 'delete', ...about }] })
        const set = { expires_at: days(-1) }
        const renewal = { op: 'update', resource: sessions, key, set } as const
        if (batch === 2) await storage.commit({ tenant: id, changes: [renewal] })
      })
      await prune(settings(busy.storage, everything))
      const kept = [...expected('kept')]
      kept.splice(1, 0, 'gone sessions')
      t.strictSame(await left(), kept)
    })

    t.test('a run that takes long keeps its lease, also while it finds nothing', async (t) => {
      const storage = await on.open(t)
      const made = [await filledTenant(storage), await filledTenant(storage)]
      const [first] = made
      await prune(settings(storage))
      let minutes = 61
      const others: number[] = []
      const slow: Storage = {
        ...storage,
        async list(from, query) {
          const other = instanceOn(storage)
          await prune(settings(other.storage, everything, minutes))
          others.push(other.batches())
          minutes += 0.5
          return storage.list(from, query)
        }
      }
      const given = settings(slow, { RETENTION_EXECUTIONS_DAYS: '30' })
      await prune({ ...given, now: () => settings(storage, {}, minutes).now() })
      t.ok(minutes > 64, 'longer than a lease')
      t.strictSame(
        others,
        others.map(() => 0)
      )
      t.strictSame(await first?.left(), first?.expected('kept', 'old audit', 'old llm_usage'))
    })

    t.test('it stops between two batches, and another goes on at once', async (t) => {
      const storage = await on.open(t)
      const { left, expected } = await filledTenant(storage)
      const stopping = new AbortController()
      const stopped = instanceOn(storage, async (batch) => {
        if (batch === 2) stopping.abort()
      })
      const env = { ...everything, RETENTION_BATCH_SIZE: '1' }
      await prune(settings(stopped.storage, env), stopping.signal)
      t.equal(stopped.batches(), 2)
      await prune(settings(storage, env))
      t.strictSame(await left(), expected('kept'))
    })

    t.test('it does not go through all tenants to stop', async (t) => {
      const storage = await on.open(t)
      for (let i = 0; i < 201; i++) {
        const id = uuid() as TenantId
        const row = { id, name: id }
        await storage.commit({ tenant: id, changes: [{ op: 'insert', resource: tenants, row }] })
      }
      const stopping = new AbortController()
      let pages = 0
      const counted: Storage = {
        ...storage,
        list(from, query) {
          if (from.resource.name === tenants.name) pages++
          else stopping.abort()
          return storage.list(from, query)
        }
      }
      await prune(settings(counted, everything), stopping.signal)
      t.equal(pages, 1)
    })

    t.test('a lease that a wrong clock put into the far future', async (t) => {
      const storage = await on.open(t)
      const { left, expected } = await filledTenant(storage)
      const row = { id: 'retention', expires_at: '2099-01-01T00:00:00.000Z' }
      await storage.commit({ tenant: SYSTEM, changes: [{ op: 'insert', resource: leases, row }] })
      await prune(settings(storage, everything))
      t.strictSame(await left(), expected('kept'))
    })
  })

t.test('a storage that fails is asked again, and what it holds is pruned then', async (t) => {
  const raw = await memory.open(t)
  const { left, expected } = await filledTenant(raw)
  const { storage, trouble } = troubledStorage(raw)
  const failing = settings(storage)
  const down = async () => Promise.reject(new StorageError('unavailable'))
  await trouble({ get: down }, () => prune(failing))
  t.match(failing.log.lines, [{ level: 'warn', message: /tried again/ }])
  const retention = startRetention(settings(storage))
  while ((await left()).length > expected('kept', 'old').length)
    await new Promise((resolve) => setImmediate(resolve))
  await retention.stop()
  await retention.stop()
  t.strictSame(await left(), expected('kept', 'old'))
})

/** Tenants that have something to prune, and a storage that fails where it is asked for that of some. */
async function failingTenants(t: Test, count: number, fails: (index: number) => boolean) {
  const raw = await memory.open(t)
  const made = await Promise.all(Array.from({ length: count }, () => filledTenant(raw)))
  const failing = new Set(made.filter((_, index) => fails(index)).map(({ id }) => id))
  const list = async (...asked: Parameters<Storage['list']>) => {
    if (failing.has(asked[0].tenant as TenantId)) throw new StorageError('unavailable')
    return raw.list(...asked)
  }
  const { storage, trouble } = troubledStorage(raw)
  const given = settings(storage, everything)
  return { made, failing, given, run: () => trouble({ list: list as never }, () => prune(given)) }
}

t.test('where the rows of a tenant fail it, it goes on with others', async (t) => {
  const { made, failing, given, run } = await failingTenants(t, 7, (index) => index % 2 === 0)
  t.equal(await run(), MINUTE_MS)
  for (const { id, left, expected } of made)
    t.strictSame(await left(), failing.has(id) ? expected('gone', 'kept', 'old') : expected('kept'))
  const [done, ...failed] = given.log.lines.reverse() as { tenant: string }[]
  t.match(done, { message: 'old rows are pruned' })
  t.match(failed, Array(4).fill({ level: 'warn', message: /of a tenant failed/, err: Error }))
  t.strictSame(new Set(failed.map(({ tenant }) => tenant)), failing)
})

t.test('where those of three in a row do, it gives up for now', async (t) => {
  const { given, run } = await failingTenants(t, 5, () => true)
  t.equal(await run(), MINUTE_MS)
  const named = { tenant: String, err: Error }
  t.match(given.log.lines, [named, named, named, { message: /^pruning failed/ }])
  t.equal(given.log.lines.length, 4)
})

t.test('of many whose rows do, the log names some, and how many there are', async (t) => {
  const { given, run } = await failingTenants(t, 25, (index) => index % 2 === 0)
  await run()
  const warnings = given.log.lines.filter((line) => (line as { level: string }).level === 'warn')
  t.equal(warnings.length, 11)
  t.match(warnings.at(-1), { tenants: 13, message: /^pruning of many tenants failed/ })
})

t.test('SQLite gives the space back, also that of rows that others deleted', async (t) => {
  const path = join(temporaryFolder(t), 'app.db')
  const storage = createStorage(openSqlite({ path }))
  t.teardown(() => storage.close())
  const { id } = await filledTenant(storage)
  const output = 'x'.repeat(100_000)
  const row = { flow_id: 'flow', status: 'success', finished_at: days(31), output } as const
  const inserts = Array.from({ length: 50 }, () => {
    return { op: 'insert', resource: executions, row: { id: uuid(), ...row } } as const
  })
  await storage.commit({ tenant: id, changes: inserts, at: ago(40) })
  await storage.commit({
    tenant: id,
    changes: inserts.slice(0, 5).map(({ resource, row }) => {
      return { op: 'delete', resource, key: row.id } as const
    })
  })
  while (await storage.compact());
  const full = statSync(path).size
  await prune(settings(storage, everything))
  const { total } = await storage.list(
    { resource: executions, tenant: id },
    { limit: 1, count: 'exact' }
  )
  t.equal(total, 4, 'what is unfinished or young')
  const { size } = statSync(path)
  t.comment(`${full} bytes became ${size}`)
  t.ok(size < full / 5)
  t.ok(statSync(`${path}-wal`).size < 20_000, 'the log, too')
  t.equal(await storage.compact(), false)
})
