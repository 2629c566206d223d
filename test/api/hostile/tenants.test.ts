import type { LightMyRequestResponse } from 'fastify'
import t, { type Test } from 'tap'
import { ACROSS_TENANTS, type TenantId } from '../../../adapters/storage/port.js'
import { resources } from '../../../schemas/registry.js'
import { type Role, roles } from '../../../schemas/resource.js'
import { users } from '../../../schemas/users.js'
import { type Person, type Send, type TestApi, testApi } from '../../support/api.js'
import { type ApiDocument, documentOf, type Parameter } from '../../support/openapi.js'
import { storeSamples } from '../../support/plain-resources.js'
import { createWorld, samples } from '../../support/sample-requests.js'
import { scriptedProvider } from '../../support/scripted-provider.js'
import { snapshotOf } from '../../support/snapshot.js'
import { memory, type TestStorage, testStorages } from '../../support/storages.js'

/** In every text of the victim: no answer to anybody else may hold it. */
const MARK = 'VICTIM'

for (const on of testStorages)
  t.test(`two tenants that reach for each other on ${on.kind}`, { skip: on.skip }, (t) =>
    reach(t, on)
  )

async function reach(t: Test, on: TestStorage) {
  const api = await testApi(t, {
    on,
    providers: [scriptedProvider],
    env: { LLM_RATE_LIMIT_PER_MINUTE: '1000000' }
  })
  const document = await documentOf(api.app)
  const victim = await createVictim(api, document)
  const before = await snapshotOf(api.storage, victim.tenant)
  t.match((await victim.send('GET', '/templates')).body, MARK, 'what is theirs can be told')
  const world = await createWorld(api)
  // Who may ask is found out before the storage is asked, and so in memory for all storages.
  const callers = await callersOf(api, world.admin, on === memory ? roles : ['admin'])
  let tried = 0

  /** Fails for an answer that shows something of the victim, or has another status. */
  function judge(what: string, answer: LightMyRequestResponse, expected: readonly number[]): void {
    tried++
    const { statusCode, body } = answer
    const shown = `${what}: ${statusCode} ${body.slice(0, 300)}`
    if (!expected.includes(statusCode)) t.fail(`${shown}, not ${expected.join(' or ')}`)
    if (body.includes(MARK) || JSON.stringify(answer.headers).includes(MARK))
      t.fail(`shows ${shown}`)
  }

  for (const { method, path, operation } of document.operations) {
    const url = path.replace('/api', '')
    const sample = Object.values(samples[operation.operationId]?.(world) ?? {})[0]
    const body = sample?.body as Record<string, unknown> | undefined
    const parameters = (operation.parameters ?? []).map((each) => document.resolve<Parameter>(each))
    const filters = parameters.filter(({ in: place }) => place === 'query')

    for (const [role, send] of callers) {
      const act = `${method} ${path} by ${role}`
      if (path.includes('{'))
        for (const id of victim.ids) {
          const there = url.replace(/\{[^}]+\}/, encodeURIComponent(id))
          const answer = await send(method as 'GET', there, body)
          judge(`${act}, ${id}`, answer, method === 'PUT' ? [201, 400, 403] : [400, 403, 404])
          // A row of one's own under the same name: others have to find none.
          if (answer.statusCode === 201) await world.admin.send('DELETE', there)
        }
      else if (method === 'GET' && operation.security.length) {
        judge(act, await send('GET', sample?.url ?? url), [200, 403, 404])
        for (const { name } of filters)
          for (const value of [...victim.ids, ...(victim.cursors.get(url) ?? [])]) {
            const search = new URLSearchParams(sample?.url.split('?')[1])
            search.set(name, value)
            judge(`${act} ?${name}`, await send('GET', `${url}?${search}`), [200, 400, 403, 404])
          }
      }
      for (const { field, to } of referencesIn(body, operation.operationId, document))
        for (const id of victim.idsOf(to)) {
          const own = ownUrl(sample?.url ?? url)
          const answer = await send(method as 'GET', own, { ...body, [field]: id })
          judge(`${act}, ${field} ${id}`, answer, [403, 409])
        }
    }
  }

  const headers = { 'idempotency-key': victim.idempotencyKey }
  const body = { name: MARK, description: MARK }
  const made = await world.admin.send('POST', '/templates', body, headers)
  t.equal(made.statusCode, 201, 'the same Idempotency-Key is another one here')
  t.not(made.json().id, victim.replayed, 'and replays nothing')
  t.strictSame(await snapshotOf(api.storage, victim.tenant), before, 'nothing of theirs changed')
  t.ok(tried > 200 * callers.length, `${tried} tries`)
  t.comment(`${tried} tries on ${on.kind}: ${victim.ids.length} ids, ${callers.length} callers`)
}

/** Without the parameters of a list, and of the caller's own rows. */
function ownUrl(url: string): string {
  return url.split('?')[0] as string
}

/** Fields of an operation's body that name rows of another resource. */
function referencesIn(body: object | undefined, operationId: string, document: ApiDocument) {
  const found = document.operations.find(({ operation }) => operation.operationId === operationId)
  const schema = found?.operation.requestBody?.content['application/json']?.schema
  if (!schema || !body) return []
  const { properties = {} } = document.resolve(schema) as { properties?: object }
  return resources
    .flatMap(({ references }) => references)
    .filter(({ field }) => field in properties)
}

/** Somebody of each role, and a program. */
async function callersOf(api: TestApi, admin: Person, roles: readonly Role[]) {
  const callers: [string, Send][] = []
  for (const role of roles) {
    callers.push([role, (await api.person(admin, role)).send])
    const { key } = (await admin.send('POST', '/api-keys', { name: 'K', role })).json()
    callers.push([`an API key of ${role}`, api.as(key)])
  }
  return callers
}

/** A tenant with two rows of everything, and its ids, names and cursors. */
async function createVictim(api: TestApi, document: ApiDocument) {
  const admin = await api.register(`${MARK} ${api.tag}`)
  const { send } = admin
  const idempotencyKey = `${MARK}-key`
  const replayed = await send(
    'POST',
    '/templates',
    { name: MARK, description: MARK },
    { 'idempotency-key': idempotencyKey }
  )
  for (const n of [1, 2]) {
    await send('PUT', `/templates/theirs-t${n}`, { name: MARK, definition: { [MARK]: MARK } })
    await send('PUT', `/flows/theirs-f${n}`, { name: MARK, template_id: `theirs-t${n}` })
    await storeSamples(send, MARK)
    await send('PUT', `/secrets/theirs-S${n}`, { value: MARK })
    await send('POST', `/flows/theirs-f1/executions`, { input: MARK })
    await send('POST', '/api-keys', { name: MARK })
    await api.person(admin, 'editor')
  }
  const ids = new Map<string, string[]>()
  const cursors = new Map<string, string[]>()
  const lists = document.operations.filter(({ operation }) =>
    operation.parameters?.some((each) => document.resolve<Parameter>(each).name === 'cursor')
  )
  for (const { path } of lists) {
    const url = path.replace('/api', '')
    const here = url.replace(/\{[^}]+\}/, 'theirs-f1')
    const answer = await send('GET', `${here}?limit=1`)
    const [, cursor] = /cursor=([^&>]+)/.exec(String(answer.headers.link)) ?? []
    if (!cursor) throw new Error(`Give the victim more in ${here}`)
    cursors.set(url, [decodeURIComponent(cursor)])
    const rows: Record<string, string>[] = (await send('GET', `${here}?limit=250`)).json()
    const collection = url.split('/')[1] as string
    const found = rows.map((row) => row.id ?? row.name ?? '')
    ids.set(collection, [...(ids.get(collection) ?? []), ...found])
  }
  const row = await api.storage.get({ resource: users, tenant: ACROSS_TENANTS }, admin.id)
  const tenant = row?.tenant_id as TenantId
  return {
    send,
    tenant,
    cursors,
    idempotencyKey,
    replayed: replayed.json().id as string,
    ids: [...new Set([tenant, ...[...ids].flatMap(([, each]) => each.slice(0, 3))])],
    idsOf: (collection: string) => ids.get(collection) ?? []
  }
}
