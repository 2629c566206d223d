import type { LightMyRequestResponse } from 'fastify'
import t, { type Test } from 'tap'
import { ACROSS_TENANTS, type TenantId } from '../../../adapters/storage/port.js'
import { users } from '../../../schemas/users.js'
import { type TestApi, testApi } from '../../support/api.js'
import { attacks, postgrestQueries } from '../../support/attacks.js'
import {
  type ApiDocument,
  type DocumentedOperation,
  documentOf,
  type Parameter
} from '../../support/openapi.js'
import {
  createWorld,
  type SampleRequest,
  samples,
  type World
} from '../../support/sample-requests.js'
import { scriptedProvider } from '../../support/scripted-provider.js'
import { snapshotOf } from '../../support/snapshot.js'
import { type TestStorage, testStorages } from '../../support/storages.js'

/** In the rows of the tenant that nobody may reach. */
const MARK = 'VICTIM'
const AT_ONCE = 8

/** A request with an attack in one place, and what the answer to it may not be. */
interface Attempt {
  readonly where: string
  readonly attack: string
  readonly request: SampleRequest
  /** What is wrong with a success, if anything. */
  readonly fault: (answer: LightMyRequestResponse) => string | false | undefined
}

for (const on of testStorages)
  t.test(`attacks in every place of every route on ${on.kind}`, { skip: on.skip }, (t) =>
    injection(t, on)
  )

async function injection(t: Test, on: TestStorage) {
  const api = await testApi(t, {
    on,
    providers: [scriptedProvider],
    env: { LLM_RATE_LIMIT_PER_MINUTE: '1000000' }
  })
  // On servers requests take long: each place gets every second attack there, and the next one the others.
  const share = ['postgres', 'supabase'].includes(on.kind) ? 2 : 1
  const document = await documentOf(api.app)
  const victim = await createVictim(api)
  const before = await snapshotOf(api.storage, victim)
  const outcomes: Record<string, number> = {}
  let count = 0

  async function run(
    t: Test,
    { admin }: World,
    { method, path }: DocumentedOperation,
    { where, attack, request, fault }: Attempt
  ): Promise<void> {
    const answer = await admin.send(method as 'GET', request.url, request.body, request.headers)
    const { statusCode } = answer
    outcomes[statusCode] = (outcomes[statusCode] ?? 0) + 1
    const wrong =
      (statusCode >= 500 && 'a fault of ours') ||
      (answer.body.includes(MARK) && 'a row of another tenant') ||
      headerFault(answer) ||
      (statusCode < 300 && fault(answer))
    if (wrong)
      t.fail(
        ascii(`${method} ${path}, ${where} = ${attack}: ${wrong}; ${statusCode} ${answer.body}`)
      )
    // What was made under a name of its own goes, so that the next attack does not find it.
    if (statusCode === 201 && method === 'PUT') await admin.send('DELETE', request.url)
  }

  for (const documented of document.operations) {
    const { operationId } = documented.operation
    await t.test(operationId, async (t) => {
      const world = await createWorld(api)
      const { send } = world.admin
      await send('PUT', '/templates/keep', { name: 'Keep', definition: { a: [1] } })
      const base = successOf(samples[operationId]?.(world))
      const attempts = attemptsOn(documented, document, () => fresh(base, ++count), share)
      for (let i = 0; i < attempts.length; i += AT_ONCE)
        await Promise.all(
          attempts.slice(i, i + AT_ONCE).map((attempt) => run(t, world, documented, attempt))
        )
      const kept = await send('GET', '/templates/keep')
      t.match(kept.json(), { name: 'Keep', definition: { a: [1] }, version: /\d/ })
      t.pass(`${attempts.length} attacks`)
    })
  }
  t.strictSame(await snapshotOf(api.storage, victim), before, 'the other tenant is as it was')
  const tried = Object.values(outcomes).reduce((sum, each) => sum + each, 0)
  t.comment(`${tried} attacks on ${on.kind}, by status: ${JSON.stringify(outcomes)}`)
}

async function createVictim(api: TestApi): Promise<TenantId> {
  const { admin } = await createWorld(api)
  for (const [url, body] of Object.entries({
    '/templates/t': { name: MARK },
    '/flows/f': { name: MARK, template_id: 't' },
    '/connections/c': { provider: MARK, category: MARK, account: MARK }
  }))
    await admin.send('PUT', url, body)
  const row = await api.storage.get({ resource: users, tenant: ACROSS_TENANTS }, admin.id)
  return row?.tenant_id as TenantId
}

/** Every attack in every place of an operation, as the document has them, or of these one in so many. */
function attemptsOn(
  documented: DocumentedOperation,
  document: ApiDocument,
  base: () => SampleRequest,
  share: number
): Attempt[] {
  const { operation, path, method } = documented
  const parameters = (operation.parameters ?? []).map((each) => document.resolve<Parameter>(each))
  const body = operation.requestBody?.content['application/json']?.schema
  const schema = body && (document.resolve(body) as Record<string, object>)
  const attempts: Attempt[] = []
  let places = 0
  const add = (
    where: string,
    make: (attack: string) => Omit<Attempt, 'where' | 'attack'> | null
  ) => {
    places++
    for (const [n, attack] of attacks.entries()) {
      if ((places + n) % share !== 0) continue
      const made = make(attack)
      if (made) attempts.push({ where, attack, ...made })
    }
  }

  for (const { name, in: place } of parameters) {
    if (place === 'path')
      add(`{${name}}`, (attack) => {
        const { url, ...rest } = base()
        const [, query = ''] = url.split(/(?=\?)/)
        const filled = path.replace('/api', '').replace(`{${name}}`, encodeURIComponent(attack))
        const fault = (answer: LightMyRequestResponse) =>
          method !== 'PUT' && method !== 'GET'
            ? 'something was there'
            : answer.json()[name] !== attack && 'another row'
        return { request: { ...rest, url: filled + query }, fault }
      })
    if (place === 'query')
      add(`?${name}`, (attack) => {
        const { url, ...rest } = base()
        const [bare = '', query = ''] = url.split('?')
        const search = new URLSearchParams(query)
        search.set(name, attack)
        return { request: { ...rest, url: `${bare}?${search}` }, fault: filterFault(name, attack) }
      })
    if (place === 'header')
      add(name, (attack) => {
        // The star matches any version, and what is no header does not get here.
        if (attack === '*' || !/^[ -~]+$/.test(attack)) return null
        const request = base()
        const headers = { ...request.headers, [name.toLowerCase()]: attack }
        const fault = () => name === 'If-Match' && 'it matched'
        return { request: { ...request, headers }, fault }
      })
  }
  for (const name of Object.keys(schema?.properties ?? {}))
    add(`/${name}`, (attack) => {
      const request = base()
      const value = { ...(request.body as object), [name]: attack }
      return { request: { ...request, body: value }, fault: bodyFault(name, attack) }
    })
  for (const name of ['definition', 'input', 'output'])
    if (name in (schema?.properties ?? {}))
      add(`/${name} as a key`, (attack) => {
        if (attack === '__proto__') return null
        const request = base()
        const value = { [attack]: [{ [attack]: attack }] }
        const sent = { ...(request.body as object), [name]: value }
        return { request: { ...request, body: sent }, fault: bodyFault(name, value) }
      })
  if (method === 'GET' && operation.security.length)
    for (const query of postgrestQueries) {
      const { url } = base()
      const request = { url: `${url.split('?')[0]}?${encodeURI(query)}` }
      attempts.push({ where: 'query', attack: query, request, fault: () => 'it was taken' })
    }
  return attempts
}

/** A filter finds what has just this value; the other parameters of lists allow no such text. */
function filterFault(name: string, attack: string): Attempt['fault'] {
  return (answer) => {
    const type = String(answer.headers['content-type'])
    if (type.startsWith('text/event-stream')) return false
    const rows = answer.json()
    if (!Array.isArray(rows)) return false
    return rows.some((row) => row[name] !== attack) && 'rows that do not have this value'
  }
}

/** What is stored is what was sent. */
function bodyFault(name: string, value: unknown): Attempt['fault'] {
  return ({ body, headers }) => {
    if (body === '' || !String(headers['content-type']).startsWith('application/json')) return false
    const shown = JSON.parse(body)
    const same = !(name in shown) || JSON.stringify(shown[name]) === JSON.stringify(value)
    return !same && 'another value than was sent'
  }
}

function headerFault({ headers }: LightMyRequestResponse): string | false {
  if ('x-evil' in headers || 'set-cookie' in headers) return 'a header of the attacker'
  const broken = Object.entries(headers).find(([, value]) =>
    /[^\t -~\x80-\xff]/.test(String(value))
  )
  return broken ? `the header ${broken[0]} is none` : false
}

/** A request that can be sent many times: what must be unique is new each time. */
function fresh({ url, body, headers }: SampleRequest, count: number): SampleRequest {
  if (body === undefined) return { url, ...(headers ? { headers } : {}) }
  const given = body as Record<string, unknown>
  const unique: Record<string, string> = {
    email: `hostile${count}.${process.pid}@example.com`,
    tenant_name: `Hostile ${count} ${process.pid}`,
    name: `hostile${count}`
  }
  const names = Object.keys(given).filter((name) => name in unique)
  const renewed = Object.fromEntries(names.map((name) => [name, unique[name]]))
  return { url, body: { ...given, ...renewed } }
}

function successOf(sample: Readonly<Record<number, SampleRequest>> = {}): SampleRequest {
  return sample[Math.min(...Object.keys(sample).map(Number))] as SampleRequest
}

function ascii(text: string): string {
  return text
    .slice(0, 600)
    .replace(/[^ -~]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

t.test('a Link leads on, whatever is in the filter', async (t) => {
  const { send } = await (await testApi(t)).register()
  for (const provider of attacks) {
    for (const id of ['one', 'two'])
      await send('PUT', `/connections/${id}`, { provider, category: 'c', account: 'a' })
    const search = new URLSearchParams({ provider, limit: '1' })
    const first = await send('GET', `/connections?${search}`)
    const link = String(first.headers.link)
    const [, next = ''] = /^<\/api(\/connections\?[!-;=?-~]+)>; rel="next"$/.exec(link) ?? []
    const second = next ? (await send('GET', next)).json() : link
    const ids = [...first.json(), ...second].map((row: { id: string }) => row.id)
    t.strictSame(ids.sort(), ['one', 'two'], ascii(provider))
  }
})

t.test('a Location leads to what was made, whatever its name', async (t) => {
  const { send } = await (await testApi(t)).register()
  for (const name of [...attacks, '\u560d\u560aLocation:x', 'a?b', 'a#b', '%2e%2e', 'é', '😀']) {
    const made = await send('POST', '/secrets', { name, value: 'v' })
    if (made.statusCode === 400) continue
    t.equal(made.statusCode, 201, ascii(name))
    const location = String(made.headers.location)
    t.match(location, /^\/api\/secrets\/[\w.~!*'()%-]+$/, ascii(name))
    t.equal((await send('GET', location.replace('/api', ''))).json().name, name, ascii(name))
  }
})

t.test('the id of a request is ours', async (t) => {
  const { app } = await testApi(t)
  for (const [name, value] of [
    ['x-request-id', 'evil'],
    ['request-id', '1'],
    ['x-correlation-id', 'a\r\nX-Evil: 1'],
    ['traceparent', '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01']
  ] as const) {
    const { headers } = await app.inject({ url: '/api/health', headers: { [name]: value } })
    t.match(headers['x-request-id'], /^[0-9a-f]{8}-[0-9a-f-]{27}$/, name)
    t.equal(headerFault({ headers } as LightMyRequestResponse), false)
  }
})
