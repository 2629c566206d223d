import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import t, { type Test } from 'tap'
import {
  ACROSS_TENANTS,
  type Change,
  type Storage,
  type TenantId
} from '../../adapters/storage/port.js'
import { openPostgres } from '../../adapters/storage/postgres.js'
import type { ConnectionOptions } from '../../adapters/storage/postgres-connections.js'
import { createStorage } from '../../adapters/storage/storage.js'
import { executions } from '../../schemas/executions.js'
import { flows } from '../../schemas/flows.js'
import { templates } from '../../schemas/templates.js'
import { users } from '../../schemas/users.js'
import { startCutProxy } from '../support/cut-proxy.js'
import { countExchanges, messagesIn } from '../support/postgres-messages.js'
import { type PostgresServer, startPostgres, withStack } from '../support/postgres-stack.js'
import { codesOf } from '../support/stored-samples.js'
import { createLoadTenant } from '../support/write-load.js'

/** What commits and reads that come at the same time share, and what of it they must not notice. */

const tenant = '019b76da-a800-7000-8000-00000000bbbb' as TenantId

function template(id: string, description = ''): Change {
  return { op: 'insert', resource: templates, row: { id, name: id, description } }
}

function execution(n: number, flow: string): Change {
  const id = `019b76da-a800-7000-8000-${`${n}`.padStart(12, '0')}`
  return { op: 'insert', resource: executions, row: { id, flow_id: flow, status: 'queued' } }
}

const commit = (storage: Storage, ...changes: Change[]) => storage.commit({ tenant, changes })
const read = (storage: Storage, id: string) => storage.get({ resource: templates, tenant }, id)

async function idsOf(storage: Storage): Promise<string[]> {
  const { rows } = await storage.list({ resource: templates, tenant }, { limit: 1000 })
  return rows.map(({ id }) => id).sort()
}

/** A storage with a tenant, the server's view of its database, and what is between them. */
async function openWatched(
  t: Test,
  server: PostgresServer,
  options: Partial<ConnectionOptions> = {}
) {
  const proxy = await startCutProxy(server.port)
  t.teardown(() => proxy.close())
  const database = await server.createDatabase()
  const url = server.url(database)
  const storage = createStorage(await openPostgres({ url: proxy.through(url), ...options }))
  t.teardown(() => storage.close())
  await createLoadTenant(storage, tenant)
  proxy.forget()

  return {
    database,
    url,
    storage,
    proxy,
    /** A session of somebody else, ended with the test. */
    async other() {
      const client = new pg.Client({ connectionString: url })
      await client.connect()
      t.teardown(() => client.end())
      return client
    },
    async sql(text: string) {
      const [row] = await server.query(database, text)
      return row
    },
    /** Has the server fail when it inserts the template of this id. */
    async failOn(id: string, state: string) {
      await server.query(
        database,
        `create function fail() returns trigger language plpgsql as $$
           begin raise exception using errcode = '${state}', message = 'made by the test'; end $$;
         create trigger fail before insert on templates
           for each row when (new.id = '${id}') execute function fail()`
      )
    },
    /** Waits until so many sessions of the storage wait for a lock. */
    async lockWaited(sessions = 1) {
      const waiting = `select from pg_stat_activity
        where datname = '${database}' and wait_event_type = 'Lock'`
      while ((await server.query(database, waiting)).length < sessions) await sleep(5)
    }
  }
}

await withStack(t, startPostgres, async (server) => {
  await testCommits(t, server)
  await testReads(t, server)
})

async function testCommits(t: Test, server: PostgresServer) {
  t.test('inserts that come at once share exchanges', async (t) => {
    const { storage, proxy } = await openWatched(t, server, { poolSize: 1 })
    const ids = Array.from({ length: 40 }, (_, i) => `at-once-${i}`)
    await Promise.all(ids.map((id) => commit(storage, template(id))))
    t.equal(countExchanges(proxy.sent()), 2, '32 and 8')
    t.strictSame(await idsOf(storage), ids.sort())
  })

  t.test('what is large has less company, or none', async (t) => {
    const { storage, proxy } = await openWatched(t, server, { poolSize: 1 })
    const of = (size: number) => (_: unknown, i: number) =>
      commit(storage, template(`${size}-${i}`, 'x'.repeat(1000 * size)))
    await Promise.all([...Array.from({ length: 6 }, of(60)), ...Array.from({ length: 2 }, of(90))])
    const sizes = messagesIn(proxy.sent()).filter(({ type }) => type === 'B')
    const rounded = sizes.map(({ length }) => Math.round(length / 30_000) * 30)
    t.strictSame(rounded.sort(), [120, 240, 90, 90], 'thousands of bytes in each')
    t.equal((await idsOf(storage)).length, 8)
  })

  t.test('what has many changes has no company', async (t) => {
    const { storage, proxy } = await openWatched(t, server, { poolSize: 1 })
    const many = [1, 2, 3].map((n) => [1, 2, 3, 4, 5].map((each) => template(`${n}-${each}`)))
    await Promise.all(many.map((changes) => commit(storage, ...changes)))
    t.equal(countExchanges(proxy.sent()), 3)
    t.equal((await idsOf(storage)).length, 15)
  })

  t.test('what changes rows, and so keeps others waiting, has no company', async (t) => {
    const { storage, proxy } = await openWatched(t, server, { poolSize: 1 })
    const keys = ['a', 'b', 'c']
    await commit(storage, ...keys.map((key) => template(key)))
    proxy.forget()
    const set = { name: 'new' }
    await Promise.all(
      keys.map((key) => commit(storage, { op: 'update', resource: templates, key, set }))
    )
    t.equal(countExchanges(proxy.sent()), 3)
  })

  t.test('a server that hangs: who was not sent is told so after the time for that', async (t) => {
    const { storage, proxy } = await openWatched(t, server, { connectTimeoutMs: 500, poolSize: 2 })
    // Two groups are under way, each on a connection that there is.
    await Promise.all([storage.ping(), storage.ping()])
    proxy.withholdAnswers()
    const sent: Promise<unknown>[] = []
    const waiting: Promise<unknown>[] = []
    for (let i = 0; i < 80; i++) (i < 64 ? sent : waiting).push(commit(storage, template(`${i}`)))
    const results = Promise.allSettled(sent)
    for (const result of await Promise.allSettled(waiting))
      t.match(result, { status: 'rejected', reason: { code: 'unavailable' } })
    proxy.heal()
    proxy.cutAll()
    for (const result of await results)
      t.match(result, { status: 'rejected', reason: { code: 'outcome_unknown' } })
    let tries = 0
    while (!(await commit(storage, template(`after${tries++}`)).catch(() => null)));
    t.equal(proxy.timesSent('"key":"79"'), 0, 'nor is it sent later')
  })

  t.test('one commit that the server cannot store is the only one to fail', async (t) => {
    const { storage, failOn } = await openWatched(t, server)
    await failOn('broken', 'XX001')
    const ids = ['a', 'b', 'broken', 'c', 'd']
    const outcomes = await Promise.allSettled(ids.map((id) => commit(storage, template(id))))
    t.strictSame(codesOf(outcomes), ['outcome_unknown', ...Array(4).fill('stored')])
    t.strictSame(await idsOf(storage), ['a', 'b', 'c', 'd'])
  })

  t.test('a commit that is rolled back time after time is given up', async (t) => {
    const { storage, failOn, proxy } = await openWatched(t, server)
    await failOn('contended', '40001')
    await t.rejects(commit(storage, template('contended')), { code: 'unavailable' })
    t.equal(proxy.timesSent('"key":"contended"'), 5, 'tries')
  })

  t.test(
    'what a pooler may have answered leaves all in doubt, and none is sent again',
    async (t) => {
      const { storage, failOn, proxy } = await openWatched(t, server)
      await failOn('broken', '08P01')
      const ids = ['first', 'broken', 'last']
      const outcomes = await Promise.allSettled(ids.map((id) => commit(storage, template(id))))
      t.strictSame(codesOf(outcomes), Array(3).fill('outcome_unknown'))
      for (const id of ids) t.equal(proxy.timesSent(`"key":"${id}"`), 1, 'sent once')
    }
  )

  for (const alone of [true, false])
    t.test(`who waits for a lock ${alone ? 'alone' : 'in a group'} holds up nobody`, async (t) => {
      const { storage, other, lockWaited } = await openWatched(t, server)
      const flow = { id: 'f', name: 'F', status: 'draft' } as const
      await commit(storage, { op: 'insert', resource: flows, row: flow })
      const holder = await other()
      await holder.query(`begin; update flows set id = 'g' where id = 'f'`)
      let stalled = 0
      async function stall(n: number): Promise<void> {
        stalled++
        await commit(storage, template(`stalls-${n}`), execution(n, 'f'))
        stalled--
      }
      const stalls: Promise<void>[] = []
      for (const n of [1, 2]) {
        stalls.push(stall(n))
        if (alone) await lockWaited(n)
      }
      const ids = Array.from({ length: 40 }, (_, i) => `free-${i}`)
      await Promise.all(ids.map((id) => commit(storage, template(id))))
      await lockWaited(2)
      t.equal(stalled, 2, 'they still wait')
      t.strictSame(await idsOf(storage), ids.sort(), 'the others are stored')
      await holder.query('rollback')
      await Promise.all(stalls)
      t.match(await read(storage, 'stalls-1'), { id: 'stalls-1' }, 'and so are they, in the end')
    })

  t.test('a commit that waits for a lock too long is refused, and not stored later', async (t) => {
    const { storage, other } = await openWatched(t, server, { timeoutMs: 1000 })
    await commit(storage, template('locked'))
    const holder = await other()
    await holder.query(`begin; update templates set name = 'theirs' where id = 'locked'`)
    const set = { name: 'ours' }
    const change = { op: 'update', resource: templates, key: 'locked', set } as const
    await t.rejects(commit(storage, change), { code: 'unavailable' })
    await holder.query('commit')
    t.match(await read(storage, 'locked'), { name: 'theirs' })
  })

  t.test('a check waits for whoever is changing the row, and then sees the change', async (t) => {
    const { storage, other, lockWaited } = await openWatched(t, server)
    const [row] = await commit(storage, template('checked'))
    const holder = await other()
    await holder.query(
      `begin; update templates set version = nextval('row_version') where id = 'checked'`
    )
    const expect = row?.version as number
    const check = { op: 'check', resource: templates, key: 'checked', expect } as const
    const refused = t.rejects(commit(storage, check, template('beside')), { code: 'stale' })
    await Promise.race([lockWaited(), refused])
    await holder.query('commit')
    await refused
  })

  t.test('two servers that insert the same keys, each in another order', async (t) => {
    const { storage, url } = await openWatched(t, server)
    const second = createStorage(await openPostgres({ url }))
    t.teardown(() => second.close())
    const ids = Array.from({ length: 20 }, (_, i) => `contended-${i}`)
    const insertAll = (by: Storage, keys: readonly string[]) =>
      Promise.allSettled(keys.map((id) => commit(by, template(id))))
    const [forth, back] = await Promise.all([
      insertAll(storage, ids),
      insertAll(second, ids.toReversed())
    ])
    for (const [i, id] of ids.entries())
      t.strictSame(codesOf([forth[i], back.at(-1 - i)] as never), ['conflict', 'stored'], id)
    t.strictSame(await idsOf(storage), ids.sort())
  })

  t.test('a connection that breaks: nobody knows of any, and none is sent again', async (t) => {
    const { storage, proxy } = await openWatched(t, server)
    proxy.cutAnswers()
    const ids = Array.from({ length: 20 }, (_, i) => `cut-${i}-off`)
    const outcomes = await Promise.allSettled(ids.map((id) => commit(storage, template(id))))
    for (const outcome of outcomes)
      t.match(outcome, { status: 'rejected', reason: { code: 'outcome_unknown' } })
    for (const id of ids) t.equal(proxy.timesSent(`"key":"${id}"`), 1, 'sent once')
    proxy.heal()
    t.strictSame(await idsOf(storage), [...ids].sort(), 'they were stored all the same')
  })

  t.test('a server that is gone: all are told that nothing was done', async (t) => {
    const { storage } = await openWatched(t, server)
    await server.stop()
    await t.rejects(storage.ping(), { code: 'unavailable' })
    const outcomes = await Promise.allSettled(
      ['a', 'b', 'c'].map((id) => commit(storage, template(id)))
    )
    await server.start()
    for (const outcome of outcomes)
      t.match(outcome, { status: 'rejected', reason: { code: 'unavailable' } })
    t.strictSame(await idsOf(storage), [])
    await commit(storage, template('after'))
  })
}

async function testReads(t: Test, server: PostgresServer) {
  t.test('brief reads of a table that come at once share a connection', async (t) => {
    const { storage, sql, database } = await openWatched(t, server)
    const sessions = `select count(*)::int from pg_stat_activity
      where datname = '${database}' and application_name = 'workflow-api'`
    const reads = (count: number) => Array.from({ length: count }, () => read(storage, 't'))
    await Promise.all(reads(16))
    t.strictSame(await sql(sessions), { count: 1 })
    await Promise.all(reads(17))
    t.strictSame(await sql(sessions), { count: 2 }, 'one more than may share it')
    await Promise.all([...reads(17), storage.get({ resource: flows, tenant }, 'f')])
    t.strictSame(await sql(sessions), { count: 3 }, 'one of another table')
    const everybody = { resource: users, tenant: ACROSS_TENANTS } as const
    await Promise.all([1, 2, 3, 4].map(() => storage.list(everybody, { limit: 1 })))
    t.strictSame(await sql(sessions), { count: 4 }, 'lists that no index begins with')
    const large = { resource: templates, tenant } as const
    await Promise.all([1, 2, 3, 4, 5].map(() => storage.list(large, { limit: 1000 })))
    t.strictSame(await sql(sessions), { count: 5 }, 'large pages')
  })

  t.test('a read that may take its time has a connection of its own', async (t) => {
    const { storage, other, lockWaited } = await openWatched(t, server)
    await commit(storage, template('t'))
    const holder = await other()
    await holder.query('begin; lock table flows in access exclusive mode')
    const counted = storage.list({ resource: flows, tenant }, { limit: 1, count: 'exact' })
    const brief = [read(storage, 't'), storage.list({ resource: templates, tenant }, { limit: 1 })]
    await Promise.all(brief)
    await lockWaited()
    await holder.query('rollback')
    t.match(await counted, { total: 0 })
  })

  t.test('a connection that breaks under several reads: all are asked again', async (t) => {
    const { storage, proxy } = await openWatched(t, server)
    await commit(storage, template('asked-again'))
    proxy.forget()
    proxy.withholdAnswers()
    const reads = Array.from({ length: 8 }, () => read(storage, 'asked-again'))
    while (proxy.timesSent('asked-again') < 8) await sleep(5)
    proxy.heal()
    proxy.cutAll()
    for (const row of await Promise.all(reads)) t.match(row, { id: 'asked-again' })
    t.equal(proxy.timesSent('asked-again'), 16)
  })

  t.test('reads that wait for a lock too long are not asked again', async (t) => {
    const { storage, other, proxy } = await openWatched(t, server, { timeoutMs: 1000 })
    const holder = await other()
    await holder.query('begin; lock table templates in access exclusive mode')
    const reads = Array.from({ length: 8 }, () => read(storage, 'asked-once'))
    for (const result of await Promise.allSettled(reads))
      t.match(result, { status: 'rejected', reason: { code: 'unavailable' } })
    t.equal(proxy.timesSent('asked-once'), 8)
    await holder.query('rollback')
    t.equal(await read(storage, 'asked-once'), null)
  })

  t.test('a read that could not be prepared does not end prepared statements', async (t) => {
    const warnings: string[] = []
    const onWarning = (message: string) => warnings.push(message)
    const { database, url, other } = await openWatched(t, server)
    await server.query(database, `alter database ${database} set lock_timeout = '1s'`)
    const storage = createStorage(await openPostgres({ url, onWarning }))
    t.teardown(() => storage.close())
    const holder = await other()
    await holder.query('begin; lock table templates in access exclusive mode')
    const [first, ...others] = [1, 2, 3].map(() => read(storage, 't'))
    await t.rejects(first as Promise<unknown>, { code: 'unavailable' })
    await holder.query('rollback')
    t.strictSame(await Promise.all(others), [null, null])
    t.strictSame(warnings, [])
  })

  t.test('a table that is missing for a while does not end prepared statements', async (t) => {
    const warnings: string[] = []
    const onWarning = (message: string) => warnings.push(message)
    const { storage, sql } = await openWatched(t, server, { onWarning, poolSize: 1 })
    await sql('alter table templates rename to elsewhere')
    const outcomes = await Promise.allSettled([1, 2, 3].map(() => read(storage, 't')))
    for (const outcome of outcomes)
      t.match(outcome, { status: 'rejected', reason: { code: 'schema_outdated' } })
    await sql('alter table elsewhere rename to templates')
    t.equal(await read(storage, 't'), null)
    t.strictSame(warnings, [])
  })
}
