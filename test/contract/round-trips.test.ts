import { randomUUID } from 'node:crypto'
import t from 'tap'
import type { Storage, TenantId } from '../../adapters/storage/port.js'
import { openPostgres } from '../../adapters/storage/postgres.js'
import { createStorage } from '../../adapters/storage/storage.js'
import { flows } from '../../schemas/flows.js'
import { templates } from '../../schemas/templates.js'
import { tenants } from '../../schemas/tenants.js'
import { startCutProxy } from '../support/cut-proxy.js'
import { startFaultProxy } from '../support/fault-proxy.js'
import { countExchanges } from '../support/postgres-messages.js'
import { startPostgres, withStack } from '../support/postgres-stack.js'
import { openSupabaseProject, tidyPlace } from '../support/supabase-stack.js'

const tenant = randomUUID() as TenantId
const flow = { name: 'Onboarding', status: 'draft' } as const

/** Everything that the API asks of a storage, and each must cost one exchange. */
const requests: Readonly<Record<string, (storage: Storage) => Promise<unknown>>> = {
  'a commit of many changes': (storage) =>
    storage.commit({
      tenant,
      changes: [
        { op: 'insert', resource: tenants, row: { id: tenant, name: `Round trips ${tenant}` } },
        { op: 'insert', resource: templates, row: { id: 'tpl', name: 'T', description: '' } },
        { op: 'insert', resource: flows, row: { ...flow, id: 'a', template_id: 'tpl' } },
        { op: 'insert', resource: flows, row: { ...flow, id: 'b' } },
        { op: 'update', resource: flows, key: 'b', set: { name: 'Other' } },
        { op: 'delete', resource: flows, key: 'b' },
        { op: 'insert', resource: flows, row: { ...flow, id: 'c' } }
      ]
    }),
  'a refused commit': (storage) =>
    storage
      .commit({ tenant, changes: [{ op: 'delete', resource: flows, key: 'missing' }] })
      .catch(() => {}),
  'a get': (storage) => storage.get({ resource: flows, tenant }, 'a'),
  'a get of nothing': (storage) => storage.get({ resource: flows, tenant }, 'missing'),
  'a page': (storage) => storage.list({ resource: flows, tenant }, { limit: 50 }),
  'a page with a filter and a count': (storage) =>
    storage.list(
      { resource: flows, tenant },
      { filter: { status: 'draft' }, limit: 1, count: 'exact' }
    ),
  'an empty page with a count': (storage) =>
    storage.list(
      { resource: flows, tenant },
      { filter: { status: 'active' }, limit: 1, count: 'exact' }
    ),
  'the end of it all': (storage) =>
    storage.commit({ tenant, changes: [{ op: 'delete', resource: tenants, key: tenant }] })
}

/** @param count how many exchanges there were so far. */
async function exchangesOf(storage: Storage, count: () => number) {
  const counts: Record<string, number> = {}
  async function measure(name: string, run: () => Promise<unknown>) {
    const before = count()
    const result = await run()
    counts[name] = count() - before
    return result
  }
  for (const [name, run] of Object.entries(requests)) {
    if (name === 'the end of it all') {
      const first = await storage.list({ resource: flows, tenant }, { limit: 1 })
      const query = { limit: 1, count: 'exact', cursor: first.next as string } as const
      const from = { resource: flows, tenant }
      await measure('the next page with a count', () => storage.list(from, query))
    }
    await measure(name, () => run(storage))
  }
  return counts
}

const names = [...Object.keys(requests), 'the next page with a count']
const once = Object.fromEntries(names.map((name) => [name, 1]))

for (const preparedStatements of [true, false])
  t.test(`Postgres, prepared statements ${preparedStatements ? 'on' : 'off'}`, (t) =>
    withStack(t, startPostgres, async (server) => {
      const proxy = await startCutProxy(server.port)
      t.teardown(() => proxy.close())
      const database = await server.createDatabase()
      const url = proxy.through(server.url(database))
      const driver = await openPostgres({ url, poolSize: 1, preparedStatements })
      const storage = createStorage(driver)
      proxy.forget()
      const count = () => countExchanges(proxy.sent())
      t.strictSame(await exchangesOf(storage, count), once, 'when it is new')
      t.strictSame(await exchangesOf(storage, count), once, 'and again')
      await storage.close()
    })
  )

t.test('Supabase', (t) =>
  withStack(t, openSupabaseProject, async (project) => {
    const proxy = await startFaultProxy(project.url)
    t.teardown(() => proxy.close())
    const place = tidyPlace({ url: proxy.url, key: project.key })
    t.teardown(() => place.dispose())
    const storage = createStorage(await place.open())
    t.strictSame(await exchangesOf(storage, () => proxy.requests.length), once)
    await storage.close()
  })
)
