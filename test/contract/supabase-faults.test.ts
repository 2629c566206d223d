import { once } from 'node:events'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { readMigrations } from '../../adapters/storage/migrations.js'
import type { Storage, TenantId } from '../../adapters/storage/port.js'
import { createStorage } from '../../adapters/storage/storage.js'
import { openSupabase } from '../../adapters/storage/supabase.js'
import { templates } from '../../schemas/templates.js'
import { startCutProxy } from '../support/cut-proxy.js'
import { freePort } from '../support/free-port.js'
import { withStack } from '../support/postgres-stack.js'
import { type LocalSupabase, startSupabase } from '../support/supabase-stack.js'
import { assertLoad, createLoadTenant, loadWhile } from '../support/write-load.js'

const tenant = '019b76da-a800-7000-8000-00000000bbbb' as TenantId

function insert(storage: Storage, id: string) {
  const row = { id, name: 'T', description: '' }
  return storage.commit({ tenant, changes: [{ op: 'insert', resource: templates, row }] })
}

const read = (storage: Storage, id: string) => storage.get({ resource: templates, tenant }, id)
const list = (storage: Storage) => storage.list({ resource: templates, tenant }, { limit: 1 })

await withStack(t, startSupabase, async (project) => {
  const { url, key } = project
  const loaded = '019b76da-a800-7000-8000-00000000cccc' as TenantId
  const storage = createStorage(await openSupabase({ url, key }))
  t.teardown(() => storage.close())
  await createLoadTenant(storage, loaded)
  await createLoadTenant(storage, tenant)

  t.test('PostgREST is killed and restarted under load', async (t) => {
    const outcome = await loadWhile(storage, loaded, async (progress) => {
      for (let i = 0; i < 3; i++) {
        await progress(20)
        await project.postgrest.stop()
        await project.postgrest.start()
      }
    })
    await assertLoad(t, storage, loaded, outcome)
  })

  t.test('Postgres is stopped, killed and restarted under load', async (t) => {
    await createLoadTenant(storage, '019b76da-a800-7000-8000-00000000dddd')
    const tenant = '019b76da-a800-7000-8000-00000000dddd' as TenantId
    const outcome = await loadWhile(storage, tenant, async (progress) => {
      for (const signal of ['SIGINT', 'SIGKILL'] as const) {
        await progress(20)
        await project.server.stop(signal)
        await project.server.start()
      }
    })
    await assertLoad(t, storage, tenant, outcome)
  })

  t.test(
    'PostgREST has no connection left: nothing is stored, and it is over by itself',
    async (t) => {
      const query = (sql: string) => project.server.query('postgres', sql)
      await query('alter role authenticator connection limit 0')
      await query(
        "select pg_terminate_backend(pid, 10000) from pg_stat_activity where usename = 'authenticator'"
      )
      // PostgREST meets the connections that have ended one by one, before it gets no other.
      const refusal = async () =>
        (await insert(storage, 'crowded-out').catch((error) => error)).code
      let refused = await refusal()
      while (refused === 'outcome_unknown') refused = await refusal()
      t.equal(refused, 'unavailable')
      await t.rejects(read(storage, 'x'), { code: 'unavailable' })
      await query('alter role authenticator connection limit -1')
      while (!(await storage.ping().catch(() => null)));
      t.equal(await read(storage, 'crowded-out'), null)
      await insert(storage, 'after')
      t.match(await read(storage, 'after'), { id: 'after' })
    }
  )

  await testCuts(t, project)
})

/** A storage behind a proxy, and the proxy. */
async function openBehindProxy(t: Test, { url, key }: LocalSupabase, timeoutMs?: number) {
  const proxy = await startCutProxy(Number(new URL(url).port))
  const storage = createStorage(
    await openSupabase({
      url: `http://127.0.0.1:${proxy.port}`,
      key,
      ...(timeoutMs ? { timeoutMs } : {})
    })
  )
  t.teardown(async () => {
    await storage.close()
    await proxy.close()
  })
  proxy.forget()
  return { storage, proxy }
}

async function testCuts(t: Test, project: LocalSupabase) {
  t.test('a connection that breaks before the answer: the commit is not sent again', async (t) => {
    const { storage, proxy } = await openBehindProxy(t, project)
    proxy.cutAnswers()
    await t.rejects(insert(storage, 'cut-off'), { code: 'outcome_unknown' })
    t.equal(proxy.timesSent('"key":"cut-off"'), 1, 'sent once')
    proxy.heal()
    t.match(await read(storage, 'cut-off'), { id: 'cut-off' }, 'it was stored all the same')
  })

  t.test('a connection that breaks before the answer: a read is sent again', async (t) => {
    const { storage, proxy } = await openBehindProxy(t, project)
    await insert(storage, 'before')
    proxy.cutAnswers()
    await t.rejects(read(storage, 'before'), { code: 'unavailable' })
    await t.rejects(list(storage), { code: 'unavailable' })
    t.equal(proxy.timesSent('GET /rest/v1/templates'), 3, 'a few times, not for ever')
    t.equal(proxy.timesSent('POST /rest/v1/rpc/read_page'), 3)
    proxy.heal()
    t.match(await read(storage, 'before'), { id: 'before' })
  })

  t.test('answers that never come: reads and commits end in time', async (t) => {
    const { storage, proxy } = await openBehindProxy(t, project, 1500)
    proxy.withholdAnswers()
    await t.rejects(read(storage, 'x'), { code: 'unavailable' })
    await t.rejects(list(storage), { code: 'unavailable' })
    await t.rejects(insert(storage, 'late'), { code: 'outcome_unknown' })
    t.equal(proxy.timesSent('"key":"late"'), 1, 'sent once')
    proxy.cutAll()
    proxy.heal()
    // A read finds out about the connections that broke while idle.
    t.equal(await read(storage, 'none'), null)
    await insert(storage, 'in-time')
    t.match(await read(storage, 'in-time'), { id: 'in-time' })
  })
}

t.test('a project that is not there', async (t) => {
  const url = `http://127.0.0.1:${await freePort()}`
  await t.rejects(openSupabase({ url, key: 'k' }), { code: 'unavailable', message: /ECONNREFUSED/ })
  const unresolved = openSupabase({ url: 'http://project.invalid', key: 'k', timeoutMs: 5000 })
  await t.rejects(unresolved, { code: 'unavailable' })
})

/** What stands before a project answers in its stead: status, body, and what that means. */
const strangeAnswers: readonly [
  status: number,
  body: string,
  readCode: string,
  commitCode: string
][] = [
  [540, '<html>Project paused</html>', 'unavailable', 'unavailable'],
  [521, '<html>Web server is down</html>', 'unavailable', 'unavailable'],
  [401, '{"message":"Invalid API key"}', 'unavailable', 'unavailable'],
  [429, '', 'unavailable', 'unavailable'],
  [403, '', 'unavailable', 'unavailable'],
  [523, '', 'unavailable', 'unavailable'],
  [525, '', 'unavailable', 'unavailable'],
  [526, '', 'unavailable', 'unavailable'],
  [530, '', 'unavailable', 'unavailable'],
  // supabase-js takes it for an empty success.
  [404, '', 'unavailable', 'unavailable'],
  [404, '[]', 'unavailable', 'unavailable'],
  [401, '{"code":"PGRST301","message":"JWT expired"}', 'unavailable', 'unavailable'],
  [503, '{"code":"PGRST000","message":"no connection"}', 'unavailable', 'unavailable'],
  [503, '{"code":"PGRST002","message":"no schema cache"}', 'unavailable', 'unavailable'],
  [504, '{"code":"PGRST003","message":"no connection free"}', 'unavailable', 'unavailable'],
  [503, '{"code":"PGRST001","message":"connection lost"}', 'unavailable', 'outcome_unknown'],
  [503, '{"code":"57P01","message":"shutting down"}', 'unavailable', 'outcome_unknown'],
  [400, '{"code":"","message":"","details":null}', 'unavailable', 'outcome_unknown'],
  [500, '{"code":"57014","message":"statement timeout"}', 'unavailable', 'unavailable'],
  [503, '{"code":"53100","message":"disk full"}', 'unavailable', 'unavailable'],
  [502, '<html>Bad gateway</html>', 'unavailable', 'outcome_unknown'],
  // Codes of a gateway, which are no SQLSTATE.
  [502, '{"code":"UPSTREAM_DOWN","message":"bad gateway"}', 'unavailable', 'outcome_unknown'],
  [502, '{"code":"RESET","message":"connection reset"}', 'unavailable', 'outcome_unknown'],
  [401, '{"code":"UNAUTHORIZED_NO_AUTH_HEADER","message":"no key"}', 'unavailable', 'unavailable'],
  [520, '', 'unavailable', 'outcome_unknown'],
  [524, '<html>A timeout occurred</html>', 'unavailable', 'outcome_unknown'],
  [404, '{"code":"PGRST202","message":"no function"}', 'schema_outdated', 'schema_outdated'],
  [404, '{"code":"PGRST205","message":"no table"}', 'schema_outdated', 'schema_outdated'],
  [406, '{"code":"PGRST106","message":"no such schema"}', 'schema_outdated', 'schema_outdated'],
  [404, '{"code":"42P01","message":"no table"}', 'schema_outdated', 'schema_outdated'],
  [400, '{"code":"42703","message":"no column"}', 'schema_outdated', 'schema_outdated'],
  [404, '{"code":"42883","message":"no function"}', 'schema_outdated', 'schema_outdated'],
  [409, '{"code":"40001","message":"serialization"}', 'unavailable', 'unavailable'],
  [200, '{"cut":', 'unavailable', 'outcome_unknown'],
  [200, '[]', 'unavailable', 'outcome_unknown'],
  [200, '', 'unavailable', 'outcome_unknown'],
  [200, '{}', 'unavailable', 'outcome_unknown']
]

t.test('answers of what stands before a project', async (t) => {
  let answer: (typeof strangeAnswers)[number] | undefined
  let requests = 0
  const migrations = JSON.stringify(
    readMigrations('postgres').map(({ version }) => ({ version, checksum: null }))
  )
  const server = http.createServer((request, response) => {
    requests++
    request.resume()
    const [status, body] = answer ?? [200, migrations]
    const headers = { 'content-type': 'application/json', connection: 'close' }
    response.writeHead(status, headers).end(body)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  const storage = createStorage(await openSupabase({ url: `http://127.0.0.1:${port}`, key: 'k' }))

  for (answer of strangeAnswers) {
    const [status, body, readCode, commitCode] = answer
    const name = `${status} ${body}`
    await t.rejects(list(storage), { code: readCode }, `a read: ${name}`)
    requests = 0
    await t.rejects(insert(storage, 'x'), { code: commitCode }, `a commit: ${name}`)
    const rolledBack = body.includes('40001')
    t.equal(requests, rolledBack ? 5 : 1, 'sent again only where it was rolled back')
  }
  server.close()
  await once(server, 'close')
  await t.rejects(insert(storage, 'x'), { code: 'unavailable' }, 'a commit that reaches nobody')
})
