import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import t, { type Test } from 'tap'
import type { Change, Storage, TenantId } from '../../adapters/storage/port.js'
import { openPostgres } from '../../adapters/storage/postgres.js'
import type { ConnectionOptions } from '../../adapters/storage/postgres-connections.js'
import { createStorage } from '../../adapters/storage/storage.js'
import { flows } from '../../schemas/flows.js'
import { templates } from '../../schemas/templates.js'
import { startCutProxy } from '../support/cut-proxy.js'
import { type PostgresServer, startPostgres, withStack } from '../support/postgres-stack.js'
import { createLoadTenant } from '../support/write-load.js'

/** What reads that come at the same time share, and what of it they must not notice. */

const tenant = '019b76da-a800-7000-8000-00000000bbbb' as TenantId

function template(id: string, description = ''): Change {
  return { op: 'insert', resource: templates, row: { id, name: id, description } }
}

const commit = (storage: Storage, ...changes: Change[]) => storage.commit({ tenant, changes })
const read = (storage: Storage, id: string) => storage.get({ resource: templates, tenant }, id)

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
  const behind = url.replace(`:${server.port}/`, `:${proxy.port}/`)
  const storage = createStorage(await openPostgres({ url: behind, ...options }))
  t.teardown(() => storage.close())
  await createLoadTenant(storage, tenant)
  proxy.forget()

  const sent = () => Buffer.concat(proxy.sent)
  return {
    database,
    storage,
    proxy,
    sent,
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
    /** Waits until a session of the storage waits for a lock. */
    async lockWaited() {
      const waiting = `select from pg_stat_activity
        where datname = '${database}' and wait_event_type = 'Lock'`
      while ((await server.query(database, waiting)).length === 0) await sleep(5)
    },
    /** How often a text was sent. */
    timesSent: (text: string) => sent().toString('latin1').split(text).length - 1
  }
}

await withStack(t, startPostgres, async (server) => {
  await testReads(t, server)
})

async function testReads(t: Test, server: PostgresServer) {
  t.test('brief reads that come at once share a connection', async (t) => {
    const { storage, sql, database } = await openWatched(t, server)
    const sessions = `select count(*)::int from pg_stat_activity
      where datname = '${database}' and application_name = 'workflow-api'`
    await Promise.all(Array.from({ length: 16 }, () => read(storage, 't')))
    t.strictSame(await sql(sessions), { count: 1 })
    await Promise.all(Array.from({ length: 17 }, () => read(storage, 't')))
    t.strictSame(await sql(sessions), { count: 2 }, 'one more than may share it')
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
    const { storage, proxy, timesSent } = await openWatched(t, server)
    await commit(storage, template('asked-again'))
    proxy.forget()
    proxy.withholdAnswers()
    const reads = Array.from({ length: 8 }, () => read(storage, 'asked-again'))
    while (timesSent('asked-again') < 8) await sleep(5)
    proxy.heal()
    proxy.cutAll()
    for (const row of await Promise.all(reads)) t.match(row, { id: 'asked-again' })
    t.equal(timesSent('asked-again'), 16)
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
