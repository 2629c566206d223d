import { randomBytes } from 'node:crypto'
import fastify from 'fastify'
import t from 'tap'
import {
  type Access,
  type AnyResource,
  includesRole,
  type PlainOperation,
  type Role,
  roles
} from '../../schemas/resource.js'
import { requireRole } from '../../src/route.js'
import { plainResources } from '../../src/routes/every-resource.js'
import { type Person, type Send, testApi } from '../support/api.js'
import {
  sampleBody,
  sampleChange,
  sampleReplacement,
  storeSamples
} from '../support/plain-resources.js'
import { routesOf } from '../support/routes.js'
import { testStorages } from '../support/storages.js'

/** The status for each kind of caller: anonymous, viewer, editor, admin, and another tenant's admin. */
type Expected = readonly [
  anonymous: number,
  viewer: number,
  editor: number,
  admin: number,
  stranger: number
]

interface Row {
  readonly body?: object
  /** Parameters of the path; they name rows of the admin's tenant. */
  readonly params?: Readonly<Record<string, string>>
  readonly expected: Expected
}

const one = { id: 'one' }
const read: Expected = [401, 200, 200, 200, 200]
const readOne: Expected = [401, 200, 200, 200, 404]
const create: Expected = [401, 403, 201, 201, 201]
const change: Expected = [401, 403, 200, 200, 404]
const remove: Expected = [401, 403, 204, 204, 404]
const forAdmins: Expected = [401, 403, 403, 200, 200]

/** Every route of the API: one that is missing here fails the test. */
const table: Readonly<Record<string, Row>> = {
  ...Object.fromEntries(plainResources.flatMap(rowsOf)),

  'GET /api/health': { expected: [200, 200, 200, 200, 200] },
  'GET /api/ready': { expected: [200, 200, 200, 200, 200] },
  'GET /api/openapi.json': { expected: [200, 200, 200, 200, 200] },

  // 400: the body is empty, so the route was reached.
  'POST /api/auth/register': { body: {}, expected: [400, 400, 400, 400, 400] },
  'POST /api/auth/login': { body: {}, expected: [400, 400, 400, 400, 400] },
  'POST /api/auth/refresh': { body: {}, expected: [400, 400, 400, 400, 400] },
  'POST /api/auth/logout': { expected: [401, 204, 204, 204, 204] },
  'GET /api/auth/me': { expected: read },

  'GET /api/users/me': { expected: read },
  'PATCH /api/users/me': { body: { name: 'Me' }, expected: read },
  'GET /api/users': { expected: forAdmins },
  'POST /api/users': {
    body: { name: 'New', email: '{unique}@example.com', password: 'a good password' },
    expected: [401, 403, 403, 201, 201]
  },
  'GET /api/users/:id': { params: { id: '{user}' }, expected: [401, 403, 403, 200, 404] },
  'PATCH /api/users/:id': {
    params: { id: '{user}' },
    body: { name: 'Other' },
    expected: [401, 403, 403, 200, 404]
  },
  'DELETE /api/users/:id': { params: { id: '{user}' }, expected: [401, 403, 403, 204, 404] },

  'GET /api/api-keys': { expected: forAdmins },
  'POST /api/api-keys': { body: { name: 'K' }, expected: [401, 403, 403, 201, 201] },
  'GET /api/api-keys/:id': { params: { id: '{key}' }, expected: [401, 403, 403, 200, 404] },
  // 404: they call as users. Either way, the route was reached.
  'GET /api/api-keys/me': { expected: [401, 404, 404, 404, 404] },
  'PATCH /api/api-keys/:id': {
    params: { id: '{key}' },
    body: { name: 'L' },
    expected: [401, 403, 403, 200, 404]
  },
  'DELETE /api/api-keys/:id': { params: { id: '{key}' }, expected: [401, 403, 403, 204, 404] },
  'POST /api/api-keys/:id/rotate': {
    params: { id: '{key}' },
    body: {},
    expected: [401, 403, 403, 200, 404]
  },

  'POST /api/templates/:id/flows': { params: one, body: {}, expected: [401, 403, 201, 201, 404] },

  'GET /api/flows': { expected: read },
  'POST /api/flows': { body: { name: 'F' }, expected: create },
  'GET /api/flows/:id': { params: one, expected: readOne },
  'PUT /api/flows/:id': { params: one, body: { name: 'F' }, expected: [401, 403, 200, 200, 201] },
  'PATCH /api/flows/:id': { params: one, body: { name: 'G' }, expected: change },
  'DELETE /api/flows/:id': { params: { id: 'spare' }, expected: remove },
  'POST /api/flows/:id/deploy': { params: one, expected: change },
  'GET /api/flows/:id/executions': { params: one, expected: readOne },
  'POST /api/flows/:id/executions': { params: one, body: {}, expected: [401, 403, 201, 201, 404] },

  'GET /api/executions': { expected: read },
  'GET /api/executions/:id': { params: { id: '{execution}' }, expected: readOne },
  'PATCH /api/executions/:id': {
    params: { id: '{execution}' },
    body: { status: 'running' },
    expected: change
  },

  'GET /api/secrets': { expected: read },
  'POST /api/secrets': { body: { name: '{unique}', value: 'v' }, expected: create },
  'GET /api/secrets/:name': { params: { name: 'one' }, expected: readOne },
  'PUT /api/secrets/:name': {
    params: { name: 'one' },
    body: { value: 'v' },
    expected: [401, 403, 200, 200, 201]
  },
  'PATCH /api/secrets/:name': { params: { name: 'one' }, body: { value: 'w' }, expected: change },
  'DELETE /api/secrets/:name': { params: { name: 'spare' }, expected: remove },

  // 503: there is no provider. 400: there is no prompt. Either way, the route was reached.
  'POST /api/llm/complete': { body: { prompt: 'Hi' }, expected: [401, 403, 503, 503, 503] },
  'POST /api/llm/stream': { body: { prompt: 'Hi' }, expected: [401, 403, 503, 503, 503] },
  'GET /api/llm/stream': { expected: [401, 403, 400, 400, 400] },
  'GET /api/llm/usage': { expected: forAdmins }
}

const run = randomBytes(6).toString('hex')
let count = 0
function unique(): string {
  return `unique${++count}.${run}`
}

/** What the rows of the table talk about, in the admin's tenant. */
async function prepare({ send }: Person): Promise<Readonly<Record<string, string>>> {
  await send('PUT', '/templates/one', { name: 'T' })
  for (const id of ['one', 'spare']) {
    await send('PUT', `/flows/${id}`, { name: 'F', status: 'draft' })
    await send('PUT', `/secrets/${id}`, { value: 'v' })
  }
  const email = `${unique()}@example.com`
  const user = await send('POST', '/users', { name: 'U', email, password: 'a good password' })
  const execution = await send('POST', '/flows/one/executions', {})
  const key = await send('POST', '/api-keys', { name: 'K' })
  const samples = Object.entries(await storeSamples(send)).map(([name, id]) => [`{${name}}`, id])
  return {
    ...Object.fromEntries(samples),
    '{user}': user.json().id,
    '{execution}': execution.json().id,
    '{key}': key.json().id
  }
}

/** What follows for the plain routes of a resource from who may read and write it. */
function rowsOf(resource: AnyResource): [string, Row][] {
  const { name, path, key } = resource
  const { read, write, operations } = resource.access as Access
  const allowed = (role: Role, status: number, stranger = status): Expected => {
    const [viewer, editor, admin] = roles.map((own) => (includesRole(own, role) ? status : 403))
    return [401, viewer as number, editor as number, admin as number, stranger]
  }
  const all = `/api/${path}`
  const one = `${all}/:${key}`
  const params = { [key]: `{${name}}` }
  const rows: Record<PlainOperation, () => [string, Row]> = {
    list: () => [`GET ${all}`, { expected: allowed(read, 200) }],
    get: () => [`GET ${one}`, { params, expected: allowed(read, 200, 404) }],
    create() {
      const body = sampleBody(resource, '{unique}')
      return [`POST ${all}`, { body, expected: allowed(write, 201) }]
    },
    replace() {
      const body = sampleReplacement(resource)
      return [`PUT ${one}`, { params, body, expected: allowed(write, 200, 201) }]
    },
    update() {
      const body = sampleChange(resource)
      return [`PATCH ${one}`, { params, body, expected: allowed(write, 200, 404) }]
    },
    delete: () => [`DELETE ${one}`, { params, expected: allowed(write, 204, 404) }]
  }
  return operations.map((operation) => rows[operation]())
}

async function call(send: Send, route: string, row: Row, ids: Readonly<Record<string, string>>) {
  const [method, path = ''] = route.split(' ')
  const fill = (text: string) =>
    Object.entries(ids).reduce((filled, [name, id]) => filled.replaceAll(name, id), text)
  const url = path.replace(/:(\w+)/g, (_, name) => fill(row.params?.[name] ?? ''))
  const body = row.body && JSON.parse(JSON.stringify(row.body).replaceAll('{unique}', unique()))
  return send(method as 'GET', url.replace('/api', ''), body)
}

for (const on of testStorages)
  t.test(`every route and every role on ${on.kind}`, { skip: on.skip }, async (t) => {
    const api = await testApi(t, { on })
    t.strictSame(Object.keys(table).sort(), routesOf(api.app).sort(), 'the table has every route')

    const admin = await api.register()
    const [viewer, editor, other] = [
      await api.person(admin, 'viewer'),
      await api.person(admin, 'editor'),
      await api.person(admin, 'admin')
    ]
    for (const [route, row] of Object.entries(table)) {
      // A tenant of its own for each route, so that none finds what another left there.
      const people = [null, viewer, editor, other, await api.register(unique())]
      const got: number[] = []
      for (const person of people) {
        const ids = row.params ? await prepare(admin) : {}
        const answer = await call(person?.send ?? api.send, route, row, ids)
        got.push(answer.statusCode)
      }
      t.strictSame(got, row.expected, route)
    }
  })

t.test('who reads and writes plain resources is as was decided', async (t) => {
  const operations: PlainOperation[] = ['list', 'get', 'create', 'replace', 'update', 'delete']
  for (const [name, decided] of Object.entries({
    templates: { read: 'viewer', write: 'editor', operations },
    connections: { read: 'viewer', write: 'editor', operations },
    audit: { read: 'admin', write: 'admin', operations: ['list'] }
  }))
    t.strictSame(plainResources.find((resource) => resource.name === name)?.access, decided, name)
})

t.test('only the pages of the documentation are open without saying so', async (t) => {
  const app = fastify()
  const found: Record<string, unknown> = {}
  const handler = async () => 'seen'
  app.addHook('onRoute', requireRole)
  app.addHook('onRoute', ({ url, config }) => {
    found[url] = config?.role
  })
  for (const url of ['/api/docs', '/api/docs/*']) app.get(url, handler)
  for (const url of ['/api/docsets', '/api/docs/own'])
    app.get(url, { config: { role: 'viewer' } }, handler)
  t.throws(() => app.get('/api/docsets/:id', handler), /does not state its role/)
  t.match(found, {
    '/api/docs': 'anyone',
    '/api/docs/*': 'anyone',
    '/api/docsets': 'viewer',
    '/api/docs/own': 'viewer'
  })
})

t.test('a viewer cannot make itself an admin', async (t) => {
  const api = await testApi(t)
  const viewer = await api.person(await api.register(), 'viewer')
  const answer = await viewer.send('PATCH', '/users/me', { role: 'admin' })
  t.match([answer.statusCode, answer.json().code], [400, 'validation_failed'])
})
