import type { StorageErrorCode } from '../../adapters/storage/errors.js'
import { ACROSS_TENANTS, type Storage, type TenantId } from '../../adapters/storage/port.js'
import type { AnyResource, PlainOperation } from '../../schemas/resource.js'
import { users } from '../../schemas/users.js'
import { plainResources } from '../../src/routes/every-resource.js'
import { canCollide, isReferredTo } from '../../src/routes/resources.js'
import type { Person, TestApi } from './api.js'
import {
  absentKey,
  operationIdOf,
  sampleBody,
  sampleChange,
  sampleReplacement,
  storeSamples
} from './plain-resources.js'
import { brokenCommit } from './troubled-storage.js'

/** A tenant with a row of everything. */
export interface World {
  readonly api: TestApi
  readonly admin: Person
  readonly viewer: Person
  /** A second admin, so that the first can go. */
  readonly other: Person
  /** The key of a row of each plain resource that nothing refers to. */
  readonly samples: Readonly<Record<string, string>>
  readonly execution: string
  readonly apiKey: string
  /** The key itself. */
  readonly apiKeyText: string
}

export interface SampleRequest {
  readonly url: string
  readonly body?: unknown
  readonly headers?: Readonly<Record<string, string>>
  readonly before?: (world: World) => Promise<unknown>
  /** Takes the place of the storage's verbs while the request is answered. */
  readonly storage?: Partial<Storage>
}

/** What a request of an operation must be to be answered with each status. */
export type Sample = (world: World) => Readonly<Record<number, SampleRequest>>

export async function createWorld(api: TestApi): Promise<World> {
  const admin = await api.register()
  const viewer = await api.person(admin, 'viewer')
  const other = await api.person(admin, 'admin')
  const { send } = admin
  await send('PUT', '/templates/t', { name: 'T', definition: { steps: [] } })
  await send('PUT', '/flows/f', { name: 'F', template_id: 't' })
  await send('PUT', '/connections/c', { provider: 'p', category: 'c', account: 'a' })
  const samples = await storeSamples(send)
  await send('PUT', '/secrets/S', { value: 'hidden' })
  const execution = await send('POST', '/flows/f/executions', { input: { a: 1 } })
  const apiKey = await send('POST', '/api-keys', { name: 'K' })
  return {
    api,
    admin,
    viewer,
    other,
    samples,
    execution: execution.json().id,
    apiKey: apiKey.json().id,
    apiKeyText: apiKey.json().key
  }
}

const nobody = '019b76da-a800-7000-8000-00000000dead'
const lateVersion = { 'if-match': '"999999"' }
export const refusedPassword = 'refused by the provider'
export const bannedTerm = 'forbidden'

/** A request whose key came with another one before. */
function keyUsed(url: string, body: object, difference: object): SampleRequest {
  const headers = { 'idempotency-key': 'used' }
  const before = ({ admin }: World) => admin.send('POST', url, { ...body, ...difference }, headers)
  return { url, body, headers, before }
}

const taken = (resource: string, key: string, field: string) =>
  brokenCommit('conflict', { resource, key, fields: [field] })

/**
 * What is particular about each operation: the requests that succeed, and those that fail for a
 * reason of its own. What follows from the method, the role or the path is not repeated here.
 */
export const samples: Readonly<Record<string, Sample>> = {
  ...Object.fromEntries(plainResources.flatMap(plainSamples)),

  getHealth: () => ({ 200: { url: '/health' } }),
  getReadiness: () => ({
    200: { url: '/ready' },
    // Whatever fails in the storage is 503: only an answer that makes no sense is a fault.
    500: { url: '/ready', storage: { ping: async () => ({ migration: Symbol() as never }) } }
  }),

  register: ({ admin }) => {
    const body = { tenant_name: 'New', name: 'N', email: 'n@example.com', password: 'long enough' }
    return {
      201: { url: '/auth/register', body: { ...body, email: `new-${admin.email}` } },
      409: { url: '/auth/register', body: { ...body, email: admin.email } },
      422: { url: '/auth/register', body: { ...body, password: refusedPassword } }
    }
  },
  login: ({ admin: { email, password } }) => ({
    200: { url: '/auth/login', body: { email, password } },
    401: { url: '/auth/login', body: { email, password: 'wrong' } }
  }),
  refresh: ({ admin }) => ({
    200: { url: '/auth/refresh', body: { refresh_token: admin.refreshToken } },
    401: { url: '/auth/refresh', body: { refresh_token: 'not one of ours' } }
  }),
  logout: () => ({ 204: { url: '/auth/logout' } }),
  getSignedInUser: () => ({
    200: { url: '/auth/me' },
    404: { url: '/auth/me', before: removeBehindTheBack }
  }),

  getOwnUser: () => ({
    200: { url: '/users/me' },
    404: { url: '/users/me', before: removeBehindTheBack }
  }),
  updateOwnUser: ({ admin: { password: current_password, send }, other }) => ({
    200: { url: '/users/me', body: { name: 'Renamed' } },
    404: { url: '/users/me', body: { name: 'Renamed' }, before: removeBehindTheBack },
    409: { url: '/users/me', body: { email: other.email, current_password } },
    412: { url: '/users/me', body: { name: 'Late' }, headers: lateVersion },
    422: { url: '/users/me', body: { password: refusedPassword, current_password } },
    429: {
      url: '/users/me',
      body: { name: 'Late', current_password },
      before: async () => {
        const guess = { name: 'Guessed', current_password: 'wrong' }
        for (let i = 0; i < 5; i++) await send('PATCH', '/users/me', guess)
      }
    }
  }),
  listUsers: () => pages('/users'),
  createUser: ({ admin }) => {
    const body = { email: 'u@example.com', name: 'U', password: 'long enough', role: 'editor' }
    return {
      201: { url: '/users', body: { ...body, email: `u-${admin.email}` } },
      409: { url: '/users', body: { ...body, email: admin.email } },
      422: { url: '/users', body: { ...body, password: refusedPassword } },
      429: { url: '/users', body, before: manyTaken }
    }
  },
  getUser: ({ viewer }) => ({
    200: { url: `/users/${viewer.id}` },
    404: { url: `/users/${nobody}` }
  }),
  updateUser: ({ viewer, admin }) => ({
    200: { url: `/users/${viewer.id}`, body: { name: 'Renamed' } },
    404: { url: `/users/${nobody}`, body: { name: 'Renamed' } },
    409: { url: `/users/${viewer.id}`, body: { email: admin.email } },
    412: { url: `/users/${viewer.id}`, body: { name: 'Late' }, headers: lateVersion },
    422: { url: `/users/${viewer.id}`, body: { password: refusedPassword } },
    429: { url: `/users/${viewer.id}`, body: { email: 'u@example.com' }, before: manyTaken }
  }),
  deleteUser: ({ admin, other, viewer }) => ({
    204: { url: `/users/${viewer.id}` },
    404: { url: `/users/${nobody}` },
    409: {
      url: `/users/${admin.id}`,
      before: () => admin.send('DELETE', `/users/${other.id}`)
    },
    412: { url: `/users/${viewer.id}`, headers: lateVersion }
  }),

  listApiKeys: () => pages('/api-keys'),
  createApiKey: ({ admin }) => {
    const body = { name: 'New', role: 'editor', expires_at: '2999-01-31T00:00:00.000Z' }
    const url = '/api-keys'
    const headers = { 'idempotency-key': 'used' }
    return {
      201: { url, body },
      409: { url, body, headers, before: () => admin.send('POST', url, body, headers) },
      422: keyUsed(url, body, { name: 'First' })
    }
  },
  getApiKey: ({ apiKey }) => ({
    200: { url: `/api-keys/${apiKey}` },
    404: { url: `/api-keys/${nobody}` }
  }),
  getOwnApiKey: ({ apiKeyText }) => ({
    200: { url: '/api-keys/me', headers: { authorization: `Bearer ${apiKeyText}` } },
    404: { url: '/api-keys/me' }
  }),
  updateApiKey: ({ apiKey }) => ({
    200: { url: `/api-keys/${apiKey}`, body: { name: 'Renamed' } },
    404: { url: `/api-keys/${nobody}`, body: { name: 'Renamed' } },
    412: { url: `/api-keys/${apiKey}`, body: { name: 'Late' }, headers: lateVersion }
  }),
  deleteApiKey: ({ apiKey }) => ({
    204: { url: `/api-keys/${apiKey}` },
    404: { url: `/api-keys/${nobody}` },
    412: { url: `/api-keys/${apiKey}`, headers: lateVersion }
  }),
  rotateApiKey: ({ apiKey }) => ({
    200: { url: `/api-keys/${apiKey}/rotate`, body: { grace_seconds: 60, expires_at: null } },
    404: { url: `/api-keys/${nobody}/rotate`, body: {} },
    409: {
      url: `/api-keys/${apiKey}/rotate`,
      body: {},
      storage: brokenCommit('stale', { resource: 'api_keys', key: apiKey })
    },
    412: { url: `/api-keys/${apiKey}/rotate`, body: {}, headers: lateVersion }
  }),

  deleteTemplate: ({ admin }) => ({
    204: { url: '/templates/t', before: () => admin.send('DELETE', '/flows/f') },
    404: { url: '/templates/absent' },
    409: { url: '/templates/t' },
    412: { url: '/templates/t', headers: lateVersion }
  }),

  listFlows: () => pages('/flows'),
  createFlow: () => ({
    201: { url: '/flows', body: { name: 'New', definition: { steps: [1] } } },
    422: keyUsed('/flows', { name: 'New' }, { name: 'First' }),
    409: { url: '/flows', body: { name: 'Orphan', template_id: 'absent' } }
  }),
  getFlow: () => ({ 200: { url: '/flows/f' }, 404: { url: '/flows/absent' } }),
  replaceFlow: () => ({
    200: { url: '/flows/f', body: { name: 'Replaced' } },
    201: { url: '/flows/new', body: { name: 'New' } },
    409: { url: '/flows/f', body: { name: 'Orphan', template_id: 'absent' } },
    412: { url: '/flows/f', body: { name: 'Late' }, headers: lateVersion }
  }),
  updateFlow: () => ({
    200: { url: '/flows/f', body: { name: 'Renamed' } },
    404: { url: '/flows/absent', body: { name: 'Renamed' } },
    409: { url: '/flows/f', body: { template_id: 'absent' } },
    412: { url: '/flows/f', body: { name: 'Late' }, headers: lateVersion }
  }),
  deleteFlow: () => ({
    204: { url: '/flows/f' },
    404: { url: '/flows/absent' },
    412: { url: '/flows/f', headers: lateVersion }
  }),
  deployFlow: () => ({
    200: { url: '/flows/f/deploy' },
    404: { url: '/flows/absent/deploy' },
    412: { url: '/flows/f/deploy', headers: lateVersion }
  }),
  createFlowFromTemplate: () => ({
    201: { url: '/templates/t/flows', body: { name: 'New' } },
    404: { url: '/templates/absent/flows', body: {} },
    422: keyUsed('/templates/t/flows', {}, { name: 'First' }),
    409: { url: '/templates/t/flows', body: { id: 'f' } }
  }),

  listExecutions: () => pages('/executions'),
  getExecution: ({ execution }) => ({
    200: { url: `/executions/${execution}` },
    404: { url: `/executions/${nobody}` }
  }),
  updateExecution: ({ execution }) => ({
    200: { url: `/executions/${execution}`, body: { status: 'running' } },
    404: { url: `/executions/${nobody}`, body: { status: 'running' } },
    409: { url: `/executions/${execution}`, body: { status: 'success' } },
    412: { url: `/executions/${execution}`, body: { status: 'running' }, headers: lateVersion }
  }),
  listExecutionsOfFlow: () => ({
    ...pages('/flows/f/executions'),
    404: { url: '/flows/absent/executions' }
  }),
  createExecution: () => ({
    201: { url: '/flows/f/executions', body: { input: [1] } },
    404: { url: '/flows/absent/executions', body: {} },
    422: keyUsed('/flows/f/executions', {}, { input: 1 }),
    409: {
      url: '/flows/f/executions',
      body: {},
      storage: brokenCommit('reference_missing', { resource: 'executions', fields: ['flow_id'] })
    }
  }),

  listSecrets: () => pages('/secrets'),
  createSecret: () => ({
    201: { url: '/secrets', body: { name: 'NEW', value: 'v', expires_at: null } },
    422: keyUsed('/secrets', { name: 'NEW', value: 'v' }, { name: 'FIRST' }),
    409: { url: '/secrets', body: { name: 'S', value: 'v' } }
  }),
  getSecret: () => ({ 200: { url: '/secrets/S' }, 404: { url: '/secrets/ABSENT' } }),
  replaceSecret: () => ({
    200: { url: '/secrets/S', body: { value: 'other' } },
    201: { url: '/secrets/NEW', body: { value: 'v', expires_at: '2099-01-31T00:00:00.000Z' } },
    409: {
      url: '/secrets/FOUGHT_OVER',
      body: { value: 'v' },
      storage: taken('secrets', 'FOUGHT_OVER', 'name')
    },
    412: { url: '/secrets/S', body: { value: 'v' }, headers: lateVersion }
  }),
  updateSecret: () => ({
    200: { url: '/secrets/S', body: { expires_at: '2099-01-31T00:00:00.000Z' } },
    404: { url: '/secrets/ABSENT', body: { value: 'v' } },
    412: { url: '/secrets/S', body: { value: 'v' }, headers: lateVersion }
  }),
  deleteSecret: () => ({
    204: { url: '/secrets/S' },
    404: { url: '/secrets/ABSENT' },
    412: { url: '/secrets/S', headers: lateVersion }
  }),

  complete: () => ({
    200: { url: '/llm/complete', body: ask('Hi') },
    422: { url: '/llm/complete', body: ask('refused') },
    429: { url: '/llm/complete', body: ask('rate_limited') },
    500: { url: '/llm/complete', body: ask('fault') },
    502: { url: '/llm/complete', body: ask('credentials_refused') },
    503: { url: '/llm/complete', body: { prompt: 'Hi', provider: 'openai' } },
    504: { url: '/llm/complete', body: ask('timeout') }
  }),
  stream: () => ({
    200: { url: '/llm/stream', body: ask('Hi') },
    422: { url: '/llm/stream', body: ask(`No ${bannedTerm}!`) },
    500: { url: '/llm/stream', body: ask('fault') },
    503: { url: '/llm/stream', body: { prompt: 'Hi', provider: 'openai' } }
  }),
  streamByQuery: () => {
    const url = '/llm/stream?provider=scripted'
    return {
      200: { url: `${url}&prompt=Hi` },
      413: { url: `${url}&prompt=${'long'.repeat(500)}` },
      422: { url: `${url}&prompt=${bannedTerm}` },
      500: { url: `${url}&prompt=fault` },
      503: { url: '/llm/stream?prompt=Hi' }
    }
  },
  getLlmUsage: ({ admin }) => ({
    200: {
      url: '/llm/usage?since=2026-01-01&until=2026-12-31',
      before: () => admin.send('POST', '/llm/complete', ask('Hi'))
    }
  })
}

/** Those of plain routes. */
function plainSamples(resource: AnyResource): [string, Sample][] {
  const { name, path, key, keys, access } = resource
  const all = `/${path}`
  const absent = `${all}/${absentKey(resource)}`
  const one = (world: World) => `${all}/${world.samples[name]}`
  const broken = (code: StorageErrorCode) =>
    brokenCommit(code, { resource: name, key, fields: [key] })
  const ofEach: Record<PlainOperation, Sample> = {
    list: () => pages(all),
    get: (world) => ({ 200: { url: one(world) }, 404: { url: absent } }),
    create({ samples }) {
      const body = sampleBody(resource)
      const again = { url: all, body: { ...body, [key]: samples[name] } }
      return {
        201: { url: all, body },
        409: keys === 'uuid' ? { url: all, body, storage: broken('conflict') } : again,
        422: keyUsed(all, body, sampleChange(resource))
      }
    },
    replace(world) {
      const body = sampleReplacement(resource)
      return {
        200: { url: one(world), body },
        201: { url: absent, body },
        409: { url: absent, body, storage: broken('conflict') },
        412: { url: one(world), body, headers: lateVersion }
      }
    },
    update(world) {
      const body = sampleChange(resource)
      const contradiction = { url: one(world), body, storage: broken('conflict') }
      return {
        200: { url: one(world), body },
        404: { url: absent, body },
        412: { url: one(world), body, headers: lateVersion },
        ...(canCollide(resource) ? { 409: contradiction } : {})
      }
    },
    delete: (world) => ({
      204: { url: one(world) },
      404: { url: absent },
      412: { url: one(world), headers: lateVersion },
      ...(isReferredTo(resource)
        ? { 409: { url: one(world), storage: broken('reference_in_use') } }
        : {})
    })
  }
  const operations = access?.operations ?? []
  return operations.map((each) => [operationIdOf(resource, each), ofEach[each]])
}

/** The body of a call of the provider that does what its prompts say. */
function ask(prompt: string) {
  return { prompt, provider: 'scripted' }
}

/** One row a page and the count, so that an answer has every header that lists can have. */
function pages(url: string) {
  return { 200: { url: `${url}?limit=1&count=exact` } }
}

/** An admin asks of more emails than one may whether they are taken. */
async function manyTaken({ admin, viewer }: World): Promise<void> {
  for (let i = 0; i < 60; i++)
    await admin.send('PATCH', `/users/${viewer.id}`, { email: admin.email })
}

/** Another process removed the user, so that this one still takes the token. */
async function removeBehindTheBack({ api, admin }: World): Promise<void> {
  const { storage } = api
  const user = await storage.get({ resource: users, tenant: ACROSS_TENANTS }, admin.id)
  await storage.commit({
    tenant: user?.tenant_id as TenantId,
    changes: [{ op: 'delete', resource: users, key: admin.id }]
  })
}
