import type { HTTPMethods } from 'fastify'
import t from 'tap'
import type { Storage } from '../../adapters/storage/port.js'
import type { AnyResource, PlainOperation } from '../../schemas/resource.js'
import { plainResources } from '../../src/routes/every-resource.js'
import { testApi } from '../support/api.js'
import {
  absentKey,
  sampleBody,
  sampleChange,
  sampleReplacement
} from '../support/plain-resources.js'
import { routesOf } from '../support/routes.js'
import { createWorld, type World } from '../support/sample-requests.js'
import { scriptedProvider } from '../support/scripted-provider.js'
import { type TestStorage, testStorages } from '../support/storages.js'

/** A request, and what it asks of the storage when it succeeds and the caller is known. */
interface Counted {
  readonly method: HTTPMethods
  /** The route, with what stands for its parameters. */
  readonly url: string
  readonly body?: object
  readonly headers?: Readonly<Record<string, string>>
  /** The calls in their order. With Supabase, sign-in is asked too and keeps nothing here. */
  readonly calls: string
  readonly callsOnSupabase?: string
}

/**
 * Every route, in an order in which all succeed. A call is one exchange with every storage, as
 * `test/contract/round-trips.test.ts` sees to. Whoever makes a route ask more says so here.
 */
function requests(world: World): Counted[] {
  const { samples, execution, apiKey, apiKeyText, viewer, admin, other } = world
  const { email, password, refreshToken } = other
  const named = { name: 'N' }
  const key = { 'idempotency-key': 'once' }
  const asKey = { authorization: `Bearer ${apiKeyText}` }
  const ask = { prompt: 'Hi', provider: 'scripted' }
  const user = { ...named, email: `u-${admin.email}`, password: 'long enough', role: 'editor' }
  const registration = {
    ...named,
    tenant_name: `Of ${admin.email}`,
    email: `r-${admin.email}`,
    password: 'long enough'
  }
  return [
    { method: 'GET', url: '/health', calls: '' },
    { method: 'GET', url: '/ready', calls: 'ping' },
    { method: 'GET', url: '/openapi.json', calls: '' },

    ...plainResources.flatMap((resource) => plainRequests(resource, samples)),

    { method: 'GET', url: '/templates?limit=1&count=exact', calls: 'list' },
    { method: 'POST', url: '/templates', body: named, headers: key, calls: 'get commit' },
    { method: 'POST', url: '/templates', body: named, headers: key, calls: 'get' },
    { method: 'PATCH', url: '/templates/t', body: named, calls: 'get commit' },
    { method: 'PATCH', url: '/templates/t', body: named, calls: 'get' },
    { method: 'PUT', url: '/templates/put', body: named, calls: 'get commit' },
    { method: 'PUT', url: '/templates/put', body: { name: 'M' }, calls: 'get get commit' },
    { method: 'POST', url: '/templates/t/flows', body: named, calls: 'get commit' },

    { method: 'GET', url: '/flows/f', calls: 'get' },
    { method: 'GET', url: '/flows?status=draft', calls: 'list' },
    { method: 'POST', url: '/flows', body: named, calls: 'commit' },
    { method: 'PATCH', url: '/flows/f', body: named, calls: 'get commit' },
    { method: 'PUT', url: '/flows/put', body: named, calls: 'get commit' },
    { method: 'POST', url: '/flows/f/deploy', calls: 'get commit' },
    { method: 'DELETE', url: '/flows/put', calls: 'commit' },

    { method: 'GET', url: '/flows/f/executions', calls: 'get list' },
    { method: 'POST', url: '/flows/f/executions', body: {}, calls: 'get commit' },
    { method: 'GET', url: '/executions', calls: 'list' },
    { method: 'GET', url: `/executions/${execution}`, calls: 'get' },
    {
      method: 'PATCH',
      url: `/executions/${execution}`,
      body: { status: 'running' },
      calls: 'get commit'
    },

    { method: 'GET', url: '/secrets', calls: 'list' },
    { method: 'GET', url: '/secrets/S', calls: 'get' },
    { method: 'POST', url: '/secrets', body: { name: 'NEW', value: 'v' }, calls: 'commit' },
    { method: 'PUT', url: '/secrets/PUT', body: { value: 'v' }, calls: 'get commit' },
    { method: 'PATCH', url: '/secrets/PUT', body: { value: 'w' }, calls: 'get commit' },
    { method: 'DELETE', url: '/secrets/PUT', calls: 'commit' },

    // Usage is stored now and then, for many calls at once, and before it is read.
    { method: 'POST', url: '/llm/complete', body: ask, calls: '' },
    { method: 'POST', url: '/llm/stream', body: ask, calls: '' },
    { method: 'GET', url: '/llm/stream?provider=scripted&prompt=Hi', calls: '' },
    { method: 'GET', url: '/llm/usage', calls: 'commit list' },

    { method: 'GET', url: '/users', calls: 'list' },
    { method: 'GET', url: '/users/me', calls: 'get' },
    { method: 'GET', url: `/users/${viewer.id}`, calls: 'get' },
    { method: 'PATCH', url: '/users/me', body: named, calls: 'get get commit' },
    {
      method: 'PATCH',
      url: '/users/me',
      body: { name: 'M', current_password: admin.password },
      calls: 'get get get commit'
    },
    { method: 'POST', url: '/users', body: user, calls: 'commit' },
    { method: 'PATCH', url: `/users/${viewer.id}`, body: named, calls: 'get get commit' },
    { method: 'DELETE', url: `/users/${viewer.id}`, calls: 'get get commit' },

    { method: 'GET', url: '/api-keys', calls: 'list' },
    { method: 'POST', url: '/api-keys', body: named, calls: 'commit' },
    { method: 'GET', url: `/api-keys/${apiKey}`, calls: 'get' },
    { method: 'GET', url: '/api-keys/me', headers: asKey, calls: 'list commit get' },
    { method: 'GET', url: '/api-keys/me', headers: asKey, calls: 'get' },
    { method: 'PATCH', url: `/api-keys/${apiKey}`, body: named, calls: 'get commit' },
    { method: 'POST', url: `/api-keys/${apiKey}/rotate`, body: {}, calls: 'get commit' },
    { method: 'DELETE', url: `/api-keys/${apiKey}`, calls: 'get commit' },

    { method: 'GET', url: '/auth/me', calls: 'get' },
    {
      method: 'POST',
      url: '/auth/register',
      body: registration,
      calls: 'commit list commit get get get',
      callsOnSupabase: 'commit get get get'
    },
    {
      method: 'POST',
      url: '/auth/login',
      body: { email, password },
      calls: 'list commit get get get',
      callsOnSupabase: 'get get get'
    },
    {
      method: 'POST',
      url: '/auth/refresh',
      body: { refresh_token: refreshToken },
      calls: 'get commit get get',
      callsOnSupabase: 'get get'
    },
    { method: 'POST', url: '/auth/logout', calls: 'commit', callsOnSupabase: '' }
  ]
}

/** Those of plain routes. */
function plainRequests(resource: AnyResource, samples: World['samples']): Counted[] {
  const all = `/${resource.path}`
  const one = `${all}/${samples[resource.name]}`
  const requests: Record<PlainOperation, () => Counted> = {
    list: () => ({ method: 'GET', url: all, calls: 'list' }),
    get: () => ({ method: 'GET', url: one, calls: 'get' }),
    create: () => ({
      method: 'POST',
      url: all,
      body: sampleBody(resource, 'made'),
      calls: 'commit'
    }),
    replace() {
      const url = `${all}/${absentKey(resource)}`
      return { method: 'PUT', url, body: sampleReplacement(resource), calls: 'get commit' }
    },
    update: () => ({
      method: 'PATCH',
      url: one,
      body: sampleChange(resource),
      calls: 'get commit'
    }),
    delete: () => ({ method: 'DELETE', url: one, calls: 'commit' })
  }
  return (resource.access?.operations ?? []).map((operation) => requests[operation]())
}

for (const on of testStorages)
  t.test(`calls of the storage on ${on.kind}`, { skip: on.skip }, async (t) => {
    const { storage, calls } = counting(await on.open(t))
    const identity = await on.openIdentity?.(t, storage)
    const api = await testApi(t, {
      storage,
      providers: [scriptedProvider],
      ...(identity ? { identity } : {})
    })
    const world = await createWorld(api)
    await world.admin.send('GET', '/health')
    const all = requests(world)
    for (const { method, url, body, headers, ...expected } of all) {
      // Who it is may have been forgotten because the request before changed it.
      if (!isPublic(url)) await world.admin.send('GET', '/templates?limit=1')
      calls.length = 0
      const answer = await world.admin.send(method as never, url, body, headers)
      const asked = calls.join(' ')
      t.ok(answer.statusCode < 300, `${method} ${url} answers ${answer.statusCode}`)
      t.equal(asked, callsOn(on, expected), `${method} ${url}`)
    }

    t.test('no route is left out', async (t) => {
      const patterns = routesOf(api.app).map((route) => [route, patternOf(route)] as const)
      const missing = patterns.filter(([, pattern]) =>
        all.every(({ method, url }) => !pattern.test(`${method} /api${url.replace(/\?.*/, '')}`))
      )
      t.strictSame(
        missing.map(([route]) => route),
        []
      )
    })
  })

function callsOn(
  { kind }: TestStorage,
  { calls, callsOnSupabase }: Omit<Counted, 'method' | 'url'>
) {
  return kind === 'supabase' ? (callsOnSupabase ?? calls) : calls
}

function isPublic(url: string): boolean {
  return /^\/(health|ready|openapi)/.test(url)
}

/** Matches the requests that reach a route. */
function patternOf(route: string): RegExp {
  return new RegExp(`^${route.replaceAll('.', '\\.').replace(/:\w+/g, '[^/]+')}$`)
}

/** A storage that writes down the verbs that are used. */
function counting(storage: Storage): { storage: Storage; calls: string[] } {
  const calls: string[] = []
  const verbs = ['get', 'list', 'commit', 'ping'] as const
  const counted = verbs.map((verb) => [
    verb,
    (...given: never[]) => {
      calls.push(verb)
      return (storage[verb] as (...given: never[]) => unknown)(...given)
    }
  ])
  return { storage: { ...storage, ...Object.fromEntries(counted) }, calls }
}
