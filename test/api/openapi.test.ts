import { randomBytes } from 'node:crypto'
import { EventEmitter, once } from 'node:events'
import { type AddressInfo, connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { setImmediate } from 'node:timers/promises'
import type { FastifyInstance, LightMyRequestResponse } from 'fastify'
import t from 'tap'
import { openLocalIdentity } from '../../adapters/identity/local.js'
import { AccountError, type Identity } from '../../adapters/identity/port.js'
import { StorageError, type StorageErrorCode } from '../../adapters/storage/errors.js'
import type { Storage } from '../../adapters/storage/port.js'
import { cheapHasher, type Send, testApi } from '../support/api.js'
import { type ApiDocument, type DocumentedOperation, documentOf } from '../support/openapi.js'
import { exchangeRaw, type RawAnswer } from '../support/raw-http.js'
import {
  bannedTerm,
  createWorld,
  refusedPassword,
  type SampleRequest,
  samples,
  type World
} from '../support/sample-requests.js'
import { scriptedProvider } from '../support/scripted-provider.js'
import { testStorages } from '../support/storages.js'
import { broken, type TroubledStorage, troubledStorage } from '../support/troubled-storage.js'

/** Every answer to every request of these tests is held against the document, by `testApi`. */
t.test('every operation answers as documented, whatever the answer', async (t) => {
  const troubled = troubledStorage(await openMemoryStorage(t))
  const identity = await choosyIdentity(troubled.storage)
  const env = {
    BODY_LIMIT: '4096',
    LLM_BANNED_TERMS: bannedTerm,
    LLM_MAX_PROMPT_CHARS: '1000',
    LLM_RATE_LIMIT_PER_MINUTE: '1000000'
  }
  const providers = [scriptedProvider]
  const api = await testApi(t, { storage: troubled.storage, identity, providers, env })
  const limited = await testApi(t, {
    env: { AUTH_RATE_LIMIT_PER_MINUTE: '1', LLM_RATE_LIMIT_PER_MINUTE: '1' }
  })
  const limitedAdmin = await limited.register()
  const closed = await testApi(t, { env: { REGISTRATION: 'closed' } })
  const impatient = await testApi(t, { env: { HEADERS_TIMEOUT_MS: '1' } })
  await impatient.app.listen({ port: 0, host: '127.0.0.1' })
  await limited.app.listen({ port: 0, host: '127.0.0.1' })
  const document = await documentOf(api.app)

  for (const documented of document.operations) {
    const { operationId, responses } = documented.operation
    await t.test(operationId, async (t) => {
      const sample = samples[operationId]
      if (!sample) throw new Error(`Add requests of ${operationId} to sample-requests.ts`)
      const seen = new Set<number>()

      async function expect(
        status: number,
        what: string,
        answer: Promise<Pick<LightMyRequestResponse, 'statusCode' | 'body'>>
      ): Promise<void> {
        const { statusCode, body } = await answer
        t.equal(statusCode, status, `${status} ${what}: ${body.slice(0, 300)}`)
        seen.add(statusCode)
      }

      for (const status of Object.keys(sample(await createWorld(api))).map(Number)) {
        const world = await createWorld(api)
        const request = sample(world)[status] as SampleRequest
        await request.before?.(world)
        const answer = troubled.trouble(request.storage ?? {}, () =>
          world.admin.send(documented.method as 'GET', request.url, request.body, request.headers)
        )
        await expect(status, 'sample', answer)
      }

      const world = await createWorld(api)
      const samplesHere = sample(world)
      const request = successOf(samplesHere)
      const failing = failures(document, documented, samplesHere, world, troubled)
      for (const [status, what, answer] of failing) await expect(status, what, answer())

      const tooMany = responses[429] && document.resolve(responses[429])
      if (tooMany?.headers?.['RateLimit-Limit']) {
        const twice = { ...request, headers: {} }
        const { send } = documented.operation.security.length ? limitedAdmin : limited
        await sendSample(send, documented, twice)
        await expect(429, 'too often', sendSample(send, documented, twice))
      }
      await expect(408, 'slow', sendHead(impatient.app, documented, document))
      const long = `X: ${'x'.repeat(20_000)}\r\n`
      await expect(431, 'long', sendHead(limited.app, documented, document, long))
      if (operationId === 'register')
        await expect(403, 'closed', sendSample(closed.send, documented, request))

      t.strictSame([...seen].sort(byNumber), Object.keys(responses).map(Number).sort(byNumber), {
        message: 'every documented status was answered'
      })
    })
  }

  t.strictSame(
    Object.keys(samples).sort(),
    document.operations.map(({ operation }) => operation.operationId).sort(),
    'the samples are of documented operations'
  )
})

t.test('an answer that the document does not know fails', async (t) => {
  const { app, send } = await testApi(t)
  const document = await documentOf(app)
  const health = await send('GET', '/health')
  document.checkResponse('GET', '/api/health', health)
  const check = (change: object, url = '/api/health', method = 'GET') => {
    const changed = { ...health, headers: { ...health.headers }, json: () => health.json() }
    document.checkResponse(method, url, Object.assign(changed, change) as LightMyRequestResponse)
  }
  const { headers } = health
  t.throws(() => check({ statusCode: 418 }), /status is not documented/)
  t.throws(() => check({ json: () => ({ status: 'ok' }) }), /must have required property/)
  t.throws(() => check({ json: () => ({ ...health.json(), x: 1 }) }), /additional properties/)
  t.throws(() => check({ headers: { ...headers, etag: '"1"' } }), /ETag is not documented/)
  t.throws(() => check({ headers: {} }), /X-Request-Id is missing/)
  t.throws(
    () => check({ headers: { ...headers, 'content-type': 'text/html' } }),
    /content type text\/html is not documented/
  )
  t.throws(() => check({}, '/api/nothing'), /no operation is documented/)
  t.throws(() => check({}, '/api/health', 'POST'), /no operation is documented/)
})

t.test('a problem outside of every operation is as documented too', async (t) => {
  const { send } = await testApi(t)
  t.equal((await send('GET', '/nowhere')).statusCode, 404)
  t.equal((await send('POST', '/health')).statusCode, 404)
  t.equal((await send('GET', '/%zz')).statusCode, 400)
})

t.test('a server that stops answers as documented until it has stopped', async (t) => {
  const troubled = troubledStorage(await openMemoryStorage(t))
  const { app } = await testApi(t, { storage: troubled.storage })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1')
  const received = text(socket)
  const asked = new EventEmitter()
  const ping = async () => {
    asked.emit('ping')
    await once(asked, 'answer')
    return { migration: null }
  }

  await troubled.trouble({ ping }, async () => {
    socket.write('GET /api/ready HTTP/1.1\r\nHost: x\r\n\r\n')
    await once(asked, 'ping')
    const closed = app.close()
    while (app.server.listening) await setImmediate()
    socket.write('GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n')
    await once(app.server, 'request')
    asked.emit('answer')
    await closed
  })
  t.match(await received, /"status":"ready".+HTTP\/1.1 200.+"status":"ok"/s)
})

t.test('what is unavailable may be tried again, and an unknown outcome not blindly', async (t) => {
  const troubled = troubledStorage(await openMemoryStorage(t))
  const api = await testApi(t, { storage: troubled.storage })
  const { send } = await api.register()
  const answer = (code: StorageErrorCode) =>
    troubled.trouble(
      broken(() => new StorageError(code)),
      () => send('POST', '/flows', { name: 'F' })
    )
  for (const [code, retryAfter] of [
    ['unavailable', '1'],
    ['closed', '1'],
    // A moment mends neither.
    ['schema_outdated', undefined],
    ['driver_missing', undefined]
  ] as const) {
    const { statusCode, headers, json } = await answer(code)
    const told = [statusCode, json().code, headers['retry-after']]
    t.strictSame(told, [503, 'unavailable', retryAfter], code)
    t.match(json().detail, retryAfter ? /Try again\.$/ : /The operator has to/, code)
  }
  const { statusCode, headers, json } = await answer('outcome_unknown')
  t.match([statusCode, json().code, headers['retry-after']], [503, 'outcome_unknown', undefined])
})

type Failure = readonly [number, string, () => Promise<LightMyRequestResponse>]

/** What any request of an operation can meet with, by its method, path and role. */
function failures(
  document: ApiDocument,
  documented: DocumentedOperation,
  sample: Readonly<Record<number, SampleRequest>>,
  { api, admin, viewer }: World,
  { trouble }: TroubledStorage
): Failure[] {
  const { operation, method } = documented
  const request = successOf(sample)
  const open = operation.security.length === 0
  const send = open ? api.send : admin.send
  const { url, body } = request
  const join = url.includes('?') ? '&' : '?'
  const json = { 'content-type': 'application/json' }

  function sent(change: Partial<SampleRequest>, by: Send = send) {
    return () => sendSample(by, documented, { ...request, ...change })
  }

  const found: Failure[] = [
    [400, 'unknown query parameter', sent({ url: `${url}${join}unknown=1` })],
    [400, 'NUL in the query', sent({ url: `${url}${join}x=%00` })]
  ]
  if (operation.responses[304])
    found.push([304, 'known already', sent({ headers: { 'if-none-match': '*' } })])
  // Some say themselves how they fail: the storage has no part in it.
  if (!sample[500])
    found.push([
      500,
      'fault',
      () =>
        trouble(
          broken(() => new Error('secret cause')),
          sent({})
        )
    ])
  if (operation.responses[503] && !sample[503])
    found.push([
      503,
      'storage unavailable',
      () =>
        trouble(
          broken(() => new StorageError('unavailable')),
          sent({})
        )
    ])
  if (!open)
    found.push(
      [401, 'no token', sent({ headers: {} }, api.send)],
      [401, 'a bad token', sent({ headers: {} }, api.as('bad'))]
    )
  if (operation.responses[403] && !open) found.push([403, 'viewer', sent({}, viewer.send)])
  if (documented.path.includes('{'))
    found.push(
      [400, 'NUL in the path', sent({ url: withKey(documented, '%00') })],
      [400, 'bad key', sent({ url: withKey(documented, '%20') })],
      [400, 'endless key', sent({ url: withKey(documented, 'x'.repeat(4000)) })]
    )
  if (method !== 'GET')
    found.push(
      [413, 'large body', sent({ body: { x: 'x'.repeat(5000) } })],
      [415, 'text', sent({ body: 'text', headers: { 'content-type': 'text/plain' } })],
      [400, 'malformed JSON', sent({ body: '{"a":', headers: json })]
    )
  if (operation.requestBody?.required)
    found.push(
      [400, 'empty JSON', sent({ body: '', headers: json })],
      [400, 'no body', sent({ body: undefined })]
    )
  if (operation.requestBody)
    found.push(
      [400, 'array', sent({ body: [] })],
      [400, 'unknown field', sent({ body: { ...(body as object), unknown: 1 } })],
      [400, 'NUL', sent({ body: { name: '\0' } })],
      [400, '__proto__', sent({ body: '{"__proto__":{"role":"admin"}}', headers: json })]
    )
  if (operation.parameters?.some((each) => document.resolve(each).name === 'cursor'))
    found.push(
      [400, 'cursor', sent({ url: `${url}&cursor=none` })],
      [400, 'limit', sent({ url: url.replace('limit=1', 'limit=0') })],
      [400, 'limit', sent({ url: url.replace('limit=1', 'limit=many') })],
      [400, 'order', sent({ url: `${url}&order=up` })]
    )
  return found
}

function sendSample(
  send: Send,
  { method }: DocumentedOperation,
  { url, body, headers }: SampleRequest
): Promise<LightMyRequestResponse> {
  return send(method as 'GET', url, body, headers)
}

/** A request whose headers do not end. */
async function sendHead(
  { server }: FastifyInstance,
  { method, path }: DocumentedOperation,
  document: ApiDocument,
  headers = ''
): Promise<Pick<LightMyRequestResponse, 'statusCode' | 'body'>> {
  const { port } = server.address() as AddressInfo
  const begun = `${method} ${path} HTTP/1.1\r\nHost: x\r\n${headers}`
  const [answer] = await exchangeRaw(port, begun, { halfClose: false })
  document.checkResponse(method, path, answer as never)
  return answer as RawAnswer
}

function successOf(sample: Readonly<Record<number, SampleRequest>>): SampleRequest {
  return sample[Math.min(...Object.keys(sample).map(Number))] as SampleRequest
}

/** The operation's address with another key in it. */
function withKey({ path }: DocumentedOperation, key: string): string {
  return path.replace('/api', '').replace(/\{[^}]+\}/, key)
}

function byNumber(a: number, b: number): number {
  return a - b
}

function openMemoryStorage(t: Parameters<typeof testApi>[0]): Promise<Storage> {
  return (testStorages[0] as (typeof testStorages)[0]).open(t)
}

/** Signs in like the local one, and refuses a password, as providers with rules of their own do. */
async function choosyIdentity(storage: Storage): Promise<Identity> {
  const secret = randomBytes(32).toString('base64')
  const identity = await openLocalIdentity({ storage, secret, hasher: cheapHasher })
  const assertAccepted = (password?: string) => {
    if (password === refusedPassword)
      throw new AccountError('password_refused', 'The provider refused the password.')
  }
  return {
    ...identity,
    async createAccount(account) {
      assertAccepted(account.password)
      return identity.createAccount(account)
    },
    async updateAccount(user, change) {
      assertAccepted(change.password)
      return identity.updateAccount(user, change)
    }
  }
}
