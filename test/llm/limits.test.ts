import { once } from 'node:events'
import { request } from 'node:http'
import type { FastifyBaseLogger } from 'fastify'
import type { Redis } from 'ioredis'
import t from 'tap'
import { openLocalIdentity } from '../../adapters/identity/local.js'
import { connectRedis, shareRedis } from '../../src/redis.js'
import type { Person } from '../support/api.js'
import { cheapHasher } from '../support/api.js'
import { type LlmApi, llmApi } from '../support/llm-api.js'
import { startUpstream } from '../support/llm-upstream.js'
import { logLines } from '../support/log-lines.js'
import { movableClocks, passTime } from '../support/pass-time.js'
import { startRedis } from '../support/redis.js'
import { type Teardown, testStorages } from '../support/storages.js'

const ask = { prompt: 'Hi' }

/** Asks over a socket from one of the many addresses of the loopback network. */
async function askFrom(
  { port }: LlmApi,
  address: string,
  { token }: Person,
  headers: Record<string, string> = {}
) {
  const sent = request({
    port,
    host: '127.0.0.1',
    localAddress: address,
    path: '/api/llm/complete',
    method: 'POST',
    agent: false,
    headers: {
      authorization: `Bearer ${token}`,
      'content-type': 'application/json',
      ...headers
    }
  })
  sent.end(JSON.stringify(ask))
  const [response] = await once(sent, 'response')
  response.resume()
  await once(response, 'end')
  return response.statusCode as number
}

t.test('the limit is told in the standard headers, then refused with Retry-After', async (t) => {
  const upstream = await startUpstream(t)
  const { admin } = await llmApi(t, upstream.url, { env: { LLM_RATE_LIMIT_PER_MINUTE: '2' } })
  const first = await admin.send('POST', '/llm/complete', ask)
  t.match(first.headers, { 'ratelimit-limit': '2', 'ratelimit-remaining': '1' })
  t.match(first.headers['ratelimit-reset'], /^\d+$/)
  const second = await admin.send('POST', '/llm/stream', ask)
  t.equal(second.headers['ratelimit-remaining'], '0', 'all LLM routes count together')
  for (const url of ['/llm/complete', '/llm/stream']) {
    const refused = await admin.send('POST', url, ask)
    t.match(refused.json(), { status: 429, code: 'rate_limited' })
    const seconds = Number(refused.headers['retry-after'])
    t.ok(seconds > 0 && seconds <= 60, `${seconds}`)
    t.equal(refused.headers['ratelimit-remaining'], '0')
  }
  t.equal(upstream.requests.length, 2)
  t.equal((await admin.send('GET', '/flows')).statusCode, 200, 'nothing else is limited')
})

t.test('a minute after the first call the next ones count anew', async (t) => {
  const upstream = await startUpstream(t)
  const { admin } = await llmApi(t, upstream.url, { env: { LLM_RATE_LIMIT_PER_MINUTE: '1' } })
  const status = async () => (await admin.send('POST', '/llm/complete', ask)).statusCode
  t.strictSame([await status(), await status()], [200, 429])
  passTime(t, 60_000)
  t.strictSame([await status(), await status()], [200, 429])
})

t.test('it is no more than a minute where the clock is put back meanwhile', async (t) => {
  const clocks = movableClocks(t)
  const upstream = await startUpstream(t)
  const { admin } = await llmApi(t, upstream.url, { env: { LLM_RATE_LIMIT_PER_MINUTE: '1' } })
  const status = async () => (await admin.send('POST', '/llm/complete', ask)).statusCode
  t.strictSame([await status(), await status()], [200, 429])
  clocks.putBack(60 * 60_000)
  clocks.pass(60_000)
  t.strictSame([await status(), await status()], [200, 429])
})

t.test('60 a minute where nothing is set', async (t) => {
  const upstream = await startUpstream(t)
  const { admin } = await llmApi(t, upstream.url, { env: { LLM_RATE_LIMIT_PER_MINUTE: '' } })
  const { headers } = await admin.send('POST', '/llm/complete', ask)
  t.match(headers, { 'ratelimit-limit': '60', 'ratelimit-remaining': '59' })
})

t.test('it holds for an address whoever asks, and for a user wherever from', async (t) => {
  const upstream = await startUpstream(t)
  const limited = { env: { LLM_RATE_LIMIT_PER_MINUTE: '2' } }
  const byAddress = await llmApi(t, upstream.url, limited)
  const editor = await byAddress.person(byAddress.admin, 'editor')
  t.equal(await askFrom(byAddress, '127.0.0.2', byAddress.admin), 200)
  t.equal(await askFrom(byAddress, '127.0.0.2', editor), 200)
  t.equal(await askFrom(byAddress, '127.0.0.2', editor), 429)
  t.equal(await askFrom(byAddress, '127.0.0.3', editor), 200)

  const byUser = await llmApi(t, upstream.url, limited)
  t.equal(await askFrom(byUser, '127.0.0.2', byUser.admin), 200)
  t.equal(await askFrom(byUser, '127.0.0.3', byUser.admin), 200)
  t.equal(await askFrom(byUser, '127.0.0.4', byUser.admin), 429)
})

t.test('an IPv6 address counts with its /64, which one customer has', async (t) => {
  const upstream = await startUpstream(t)
  const api = await llmApi(t, upstream.url, { env: { LLM_RATE_LIMIT_PER_MINUTE: '1' } })
  const editor = await api.person(api.admin, 'editor')
  const other = await api.person(api.admin, 'editor')
  const from = async (remoteAddress: string, { token }: Person) =>
    (
      await api.app.inject({
        method: 'POST',
        url: '/api/llm/complete',
        remoteAddress,
        headers: { authorization: `Bearer ${token}` },
        payload: ask
      })
    ).statusCode
  t.equal(await from('2001:db8:0:1::1', api.admin), 200)
  t.equal(await from('2001:db8:0:1:ffff::2', editor), 429)
  t.equal(await from('2001:db8:0:2::1', other), 200)
})

t.test('a forged X-Forwarded-For does not help, a trusted one counts', async (t) => {
  const upstream = await startUpstream(t)
  const env = { LLM_RATE_LIMIT_PER_MINUTE: '1' }
  const from = (address: string) => ({ 'x-forwarded-for': address })
  const open = await llmApi(t, upstream.url, { env })
  const editor = await open.person(open.admin, 'editor')
  t.equal(await askFrom(open, '127.0.0.2', open.admin, from('10.0.0.1')), 200)
  t.equal(await askFrom(open, '127.0.0.2', editor, from('10.0.0.2')), 429)

  const behind = await llmApi(t, upstream.url, { env: { ...env, TRUST_PROXY: '127.0.0.2' } })
  const people = [
    behind.admin,
    await behind.person(behind.admin, 'editor'),
    await behind.person(behind.admin, 'admin'),
    await behind.person(behind.admin, 'editor')
  ] as const
  t.equal(await askFrom(behind, '127.0.0.2', people[0], from('10.0.0.1')), 200)
  t.equal(await askFrom(behind, '127.0.0.2', people[1], from('10.0.0.1')), 429)
  t.equal(await askFrom(behind, '127.0.0.2', people[2], from('10.0.0.1, 10.0.0.2')), 200)
  t.equal(await askFrom(behind, '127.0.0.3', people[3], from('10.0.0.3')), 200)
  t.equal(await askFrom(behind, '127.0.0.3', people[0], from('10.0.0.4')), 429, 'another proxy')
})

/** Unlike `once` of Node's, this takes the errors in between for what they are here: expected. */
function emitted(redis: Redis, event: 'close' | 'ready'): Promise<void> {
  return new Promise((resolve) => redis.once(event, () => resolve()))
}

interface Logged {
  readonly level: number
  readonly msg: string
  readonly reason?: string
}

/** Two instances of the API on one storage that count in one Redis, and what they log. */
async function twoInstances(
  t: Teardown,
  url: string,
  max: string,
  env: Readonly<Record<string, string>> = {}
) {
  const upstream = await startUpstream(t)
  const storage = await (testStorages[0] as (typeof testStorages)[0]).open(t)
  const identity = await openLocalIdentity({
    storage,
    secret: 'x'.repeat(32),
    hasher: cheapHasher
  })
  const { stream, lines } = logLines()
  const connections: Redis[] = []
  const open = async () => {
    const redis = await connectRedis(url)
    connections.push(redis)
    t.teardown(() => redis.disconnect())
    return llmApi(t, upstream.url, {
      storage,
      identity,
      redis,
      logger: { level: 'info', stream },
      env: { LLM_RATE_LIMIT_PER_MINUTE: max, ...env }
    })
  }
  const [one, two] = [await open(), await open()]
  const as = (api: LlmApi) => api.as(one.admin.token)
  const logged = () => lines.map((line): Logged => JSON.parse(line))
  const warnings = () => logged().filter(({ level }) => level === 40)
  return { one: as(one), two: as(two), logged, warnings, connections }
}

t.test('instances count together in Redis, and each alone while it is away', async (t) => {
  const redis = await startRedis(t)
  const { one, two, logged, warnings, connections } = await twoInstances(t, redis.url, '4')
  const status = async (send: typeof one) => (await send('POST', '/llm/complete', ask)).statusCode

  t.strictSame([await status(one), await status(two), await status(one)], [200, 200, 200])
  t.strictSame(warnings(), [])
  const lost = connections.map((each) => emitted(each, 'close'))
  await redis.kill()
  await Promise.all(lost)

  // The first has counted two, the second one: each goes on from there.
  t.strictSame([await status(one), await status(one), await status(one)], [200, 200, 429])
  t.strictSame(
    [await status(two), await status(two), await status(two), await status(two)],
    [200, 200, 200, 429]
  )
  t.match(warnings(), [{ msg: /Redis cannot be reached/ }, { msg: /Redis cannot be reached/ }])
  t.equal(warnings().length, 2, 'each instance says so once')

  const back = connections.map((each) => emitted(each, 'ready'))
  await redis.start()
  await Promise.all(back)
  t.strictSame(
    [await status(one), await status(two), await status(one), await status(two)],
    [200, 200, 200, 200]
  )
  t.equal(await status(one), 429, 'together again')
  t.equal(logged().filter(({ msg }) => msg.startsWith('Redis is back')).length, 2)
})

t.test('what is counted in Redis ends with its minute, however often somebody tries', async (t) => {
  const { url } = await startRedis(t)
  const { one, connections } = await twoInstances(t, url, '1')
  const [redis] = connections as [Redis]
  t.equal((await one('POST', '/llm/complete', ask)).statusCode, 200)
  const keys = await redis.keys('*')
  for (const key of keys) {
    const left = await redis.pttl(key)
    t.ok(left > 0 && left <= 60_000, `${key}: ${left}`)
    await redis.pexpire(key, 5000)
  }
  const refused = await one('POST', '/llm/complete', ask)
  t.equal(refused.statusCode, 429)
  t.ok(Number(refused.headers['retry-after']) <= 5)
})

t.test('sign-ins count together in Redis, too', async (t) => {
  const redis = await startRedis(t)
  const { one, two } = await twoInstances(t, redis.url, '1', { AUTH_RATE_LIMIT_PER_MINUTE: '3' })
  const body = { email: 'nobody@example.com', password: 'not known here' }
  const status = async (send: typeof one) => (await send('POST', '/auth/login', body)).statusCode
  t.strictSame([await status(one), await status(two), await status(one)], [401, 401, 401])
  t.strictSame([await status(one), await status(two)], [429, 429])
})

t.test('a Redis that hangs counts as away', async (t) => {
  const redis = await startRedis(t)
  const { one, logged } = await twoInstances(t, redis.url, '2')
  const status = async () => (await one('POST', '/llm/complete', ask)).statusCode
  t.equal(await status(), 200)
  redis.pause()
  t.teardown(() => redis.resume())
  t.strictSame([await status(), await status()], [200, 429])
  t.match(
    logged()
      .filter(({ level }) => level === 40)
      .at(0),
    { msg: /Redis cannot be reached/ }
  )
})

t.test('a Redis that failed is asked again after a second, by whatever clock', async (t) => {
  const { url } = await startRedis(t)
  const redis = await connectRedis(url)
  t.teardown(() => redis.disconnect())
  const clocks = movableClocks(t)
  const log = { warn() {}, info() {} } as unknown as FastifyBaseLogger
  const shared = shareRedis(redis, log)
  const failed = shared.ask(() => Promise.reject(new Error('it hangs')))
  await t.rejects(failed as Promise<unknown>)
  clocks.putBack(60 * 60_000)
  clocks.pass(1000)
  t.equal(await shared.ask((redis) => redis.ping()), 'PONG')
})

t.test('the server starts without Redis, too', async (t) => {
  const redis = await startRedis(t)
  await redis.kill()
  const { one, warnings } = await twoInstances(t, redis.url, '1')
  t.equal((await one('POST', '/llm/complete', ask)).statusCode, 200)
  t.equal((await one('POST', '/llm/complete', ask)).statusCode, 429)
  t.equal(warnings().length, 2)
  t.match(warnings(), [{ reason: /ECONNREFUSED/ }, { reason: /ECONNREFUSED/ }])
})

t.test('that Redis refuses the password is told, and the password is not', async (t) => {
  const { url } = await startRedis(t, 'told-to-nobody')
  const { logged, warnings, connections } = await twoInstances(t, url, '1')
  const refused = connections.map((each) => new Promise((resolve) => each.once('error', resolve)))
  const [one] = connections as [Redis]
  await one.config('SET', 'requirepass', 'another')
  // It ends the connection that asks for it, too.
  await one.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'no').catch(() => {})
  await Promise.all(refused)
  t.equal(warnings().length, 2)
  // On a busy machine one may not have come so far.
  t.ok(warnings().some(({ reason }) => reason?.startsWith('WRONGPASS')))
  t.notMatch(JSON.stringify(logged()), 'told-to-nobody')
})
