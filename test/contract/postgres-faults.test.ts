import pg from 'pg'
import t, { type Test } from 'tap'
import type { Storage, TenantId } from '../../adapters/storage/port.js'
import { openPostgres } from '../../adapters/storage/postgres.js'
import type { ConnectionOptions } from '../../adapters/storage/postgres-connections.js'
import { createStorage } from '../../adapters/storage/storage.js'
import { templates } from '../../schemas/templates.js'
import { startCutProxy } from '../support/cut-proxy.js'
import { assertGivenUp } from '../support/given-up.js'
import { type PostgresServer, startPostgres, withStack } from '../support/postgres-stack.js'
import { assertLoad, createLoadTenant, loadWhile } from '../support/write-load.js'

const tenant = '019b76da-a800-7000-8000-00000000bbbb' as TenantId
const template = { name: 'T', description: '' }

async function open(t: Test, options: ConnectionOptions): Promise<Storage> {
  const storage = createStorage(await openPostgres(options))
  t.teardown(() => storage.close())
  return storage
}

function insert(storage: Storage, id: string) {
  return storage.commit({
    tenant,
    changes: [{ op: 'insert', resource: templates, row: { ...template, id } }]
  })
}

const read = (storage: Storage, id: string) => storage.get({ resource: templates, tenant }, id)

await withStack(
  t,
  () => startPostgres({ maxConnections: 12 }),
  async (server) => {
    t.test('a server that is stopped, killed and restarted under load', async (t) => {
      const storage = await open(t, { url: server.url(await server.createDatabase()), poolSize: 4 })
      const tenant = await createLoadTenant(storage, '019b76da-a800-7000-8000-00000000cccc')
      const outcome = await loadWhile(storage, tenant, async (progress) => {
        for (const signal of ['SIGINT', 'SIGKILL', 'SIGINT', 'SIGKILL'] as const) {
          await progress(50)
          await server.stop(signal)
          await server.start()
        }
      })
      await assertLoad(t, storage, tenant, outcome)
    })

    t.test('what is given up for time goes on nowhere', async (t) => {
      const url = server.url(await server.createDatabase())
      // Twice as many tries as the server has connections.
      await assertGivenUp(t, url, { rounds: 6 })
    })

    await testCuts(t, server)
    await testConnections(t, server)
    await testConflicts(t, server)
  }
)

/** A storage behind a proxy that is warm, and the proxy. */
async function openBehindProxy(t: Test, server: PostgresServer, options = {}) {
  const proxy = await startCutProxy(server.port)
  t.teardown(() => proxy.close())
  const database = await server.createDatabase()
  const url = proxy.through(server.url(database))
  const storage = await open(t, { url, poolSize: 1, ...options })
  await createLoadTenant(storage, tenant)
  proxy.forget()
  return { storage, proxy }
}

async function testCuts(t: Test, server: PostgresServer) {
  t.test('a connection that breaks before the answer: the commit is not sent again', async (t) => {
    const { storage, proxy } = await openBehindProxy(t, server)
    proxy.cutAnswers()
    await t.rejects(insert(storage, 'cut-off'), { code: 'outcome_unknown' })
    t.equal(proxy.timesSent('"key":"cut-off"'), 1, 'sent once')
    proxy.heal()
    t.match(await read(storage, 'cut-off'), { id: 'cut-off' }, 'it was stored all the same')
    await insert(storage, 'after')
    t.match(await read(storage, 'after'), { id: 'after' })
  })

  t.test('a connection that breaks while idle is replaced, unnoticed', async (t) => {
    const { storage, proxy } = await openBehindProxy(t, server)
    await insert(storage, 'before')
    proxy.cutAll()
    t.match(await read(storage, 'before'), { id: 'before' })
  })

  t.test('answers that never come: a read and a commit end in time', async (t) => {
    const { storage, proxy } = await openBehindProxy(t, server, {
      timeoutMs: 3000,
      connectTimeoutMs: 3000
    })
    proxy.withholdAnswers()
    await t.rejects(read(storage, 'x'), { code: 'unavailable' }, 'on a connection')
    await t.rejects(read(storage, 'x'), { code: 'unavailable' }, 'without a connection')
    await t.rejects(insert(storage, 'never'), { code: 'unavailable' }, 'which was not sent')
    t.equal(proxy.timesSent('"key":"never"'), 0)
    proxy.heal()
    t.equal(await read(storage, 'never'), null)
    proxy.forget()
    proxy.withholdAnswers()
    await t.rejects(insert(storage, 'late'), { code: 'outcome_unknown' }, 'which was sent')
    t.equal(proxy.timesSent('"key":"late"'), 1)
    proxy.heal()
    await insert(storage, 'after')
  })

  t.test('a server that is gone: reads and commits fail, and opening too', async (t) => {
    const url = server.url(await server.createDatabase())
    const storage = await open(t, { url, connectTimeoutMs: 5000 })
    await server.stop()
    await t.rejects(storage.ping(), { code: 'unavailable' })
    await t.rejects(insert(storage, 'x'), { code: 'unavailable' })
    await t.rejects(openPostgres({ url }), { code: 'unavailable' })
    await server.start()
    t.ok(await storage.ping(), 'and it is back by itself')
  })
}

async function testConnections(t: Test, server: PostgresServer) {
  t.test('too many connections', async (t) => {
    const url = server.url(await server.createDatabase())
    const others: pg.Client[] = []
    t.teardown(() => Promise.all(others.map((client) => client.end())))
    const storage = await open(t, { url, poolSize: 2 })
    const full = async () => {
      const client = new pg.Client({ connectionString: url })
      await client.connect()
      others.push(client)
    }
    await t.rejects(
      async () => {
        for (;;) await full()
      },
      { code: '53300' }
    )
    t.ok(await storage.ping(), 'the connection at hand still works')
    await Promise.all(['a', 'b', 'c', 'd'].map((id) => read(storage, id)))
    t.pass('and others wait for it')
    await t.rejects(openPostgres({ url }), { code: 'unavailable', message: /connection/ })
    await others.pop()?.end()
    const retried = await openWhenFree(url)
    await retried.close()
  })

  t.test('sessions that an operator ends', async (t) => {
    const database = await server.createDatabase()
    const storage = await open(t, { url: server.url(database), poolSize: 3 })
    await Promise.all([storage.ping(), storage.ping(), storage.ping()])
    const terminate = `select pg_terminate_backend(pid, 10000) from pg_stat_activity
      where datname = '${database}' and pid <> pg_backend_pid()`
    await server.query(database, terminate)
    const reads = await Promise.all([1, 2, 3].map(() => read(storage, 'none')))
    t.strictSame(reads, [null, null, null])
  })

  t.test('a database that became read-only', async (t) => {
    const database = await server.createDatabase()
    const storage = await open(t, { url: server.url(database), poolSize: 1 })
    await createLoadTenant(storage, tenant)
    const readOnly = (value: string) =>
      server.query(
        'postgres',
        `alter database ${database} set default_transaction_read_only = ${value}`
      )
    const reconnect = () =>
      server.query(
        database,
        `select pg_terminate_backend(pid, 10000) from pg_stat_activity
        where datname = '${database}' and usename = 'app'`
      )
    await readOnly('on')
    await reconnect()
    await t.rejects(insert(storage, 'x'), { code: 'unavailable', message: /read-only/ })
    await t.rejects(openPostgres({ url: server.url(database) }), {
      code: 'unavailable',
      message: /^The database is read-only/
    })
    await readOnly('off')
    await insert(storage, 'x')
    t.pass('a new connection found it writable again')
  })
}

/** A server frees the place of a session a moment after the client has left. */
async function openWhenFree(url: string) {
  for (;;)
    try {
      return await openPostgres({ url })
    } catch (error) {
      if ((error as { code?: string }).code !== 'unavailable') throw error
    }
}

async function testConflicts(t: Test, server: PostgresServer) {
  t.test('commits that wait for each other are rolled back and repeated', async (t) => {
    const storage = await open(t, { url: server.url(await server.createDatabase()) })
    await createLoadTenant(storage, tenant)
    const ids = ['a', 'b', 'c']
    for (const id of ids) await insert(storage, id)
    const update = (key: string, name: string) =>
      ({ op: 'update', resource: templates, key, set: { name } }) as const
    const commits = Array.from({ length: 6 }, (_, i) => {
      const order = i % 2 ? ids : [...ids].reverse()
      return storage.commit({ tenant, changes: order.map((id) => update(id, `${i}`)) })
    })
    await Promise.all(commits)
    const rows = await Promise.all(ids.map((id) => read(storage, id)))
    t.equal(new Set(rows.map((row) => row?.name)).size, 1, 'whole, in some order')
  })
}
