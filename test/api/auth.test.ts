import { randomUUID } from 'node:crypto'
import { mock } from 'node:test'
import { verify } from '@node-rs/argon2'
import t from 'tap'
import { openLocalIdentity } from '../../adapters/identity/local.js'
import { readEnvironment } from '../../src/configuration.js'
import { prune } from '../../src/retention.js'
import { cheapHasher, testApi } from '../support/api.js'
import { passTime } from '../support/pass-time.js'
import { memory, testStorages } from '../support/storages.js'
import { goneAfterCommit, troubledStorage } from '../support/troubled-storage.js'

const registration = {
  tenant_name: 'Acme',
  name: 'Ada',
  email: 'Ada@Example.com',
  password: 'correct horse'
}
const login = { email: registration.email, password: registration.password }

for (const on of testStorages)
  t.test(`sign-in on ${on.kind}`, { skip: on.skip }, async (t) => {
    const { send, as, tag } = await testApi(t, { on })
    const registration = {
      tenant_name: `Acme ${tag}`,
      name: 'Ada',
      email: `Ada.${tag}@Example.com`,
      password: 'correct horse'
    }
    const login = { email: registration.email, password: registration.password }

    t.test('registering creates a tenant and its admin, signed in', async (t) => {
      const answer = await send('POST', '/auth/register', registration)
      t.equal(answer.statusCode, 201)
      const { user, token, refresh_token, expires_in } = answer.json()
      const { tenant_name } = registration
      t.match(user, { email: `ada.${tag}@example.com`, name: 'Ada', role: 'admin', tenant_name })
      t.equal(user.password_hash, undefined)
      t.ok(refresh_token)
      if (on.signIn.tokenSeconds) t.equal(expires_in, on.signIn.tokenSeconds)
      else t.ok(expires_in > 0)
      t.match((await as(token)('GET', '/auth/me')).json(), user)
      const audit = (await as(token)('GET', '/audit?order=asc')).json()
      t.match(audit, [
        { action: 'tenant.create', actor: user.id },
        { action: 'user.create', actor: user.id, resource_id: user.id }
      ])
      t.ok(audit[1].fields.includes('password'))
      t.notOk(audit[1].fields.includes('password_hash'))
    })

    t.test('an existing tenant cannot be joined, nor an address taken twice', async (t) => {
      const sameTenant = { ...registration, email: `eve.${tag}@example.com` }
      const sameEmail = {
        ...registration,
        tenant_name: `Other ${tag}`,
        email: `ADA.${tag}@example.COM`
      }
      for (const body of [sameTenant, sameEmail]) {
        const answer = await send('POST', '/auth/register', body)
        t.match([answer.statusCode, answer.json().code], [409, 'already_exists'])
      }
      const tenantLeft = {
        ...registration,
        tenant_name: `Other ${tag}`,
        email: `new.${tag}@example.com`
      }
      const later = await send('POST', '/auth/register', tenantLeft)
      t.equal(later.statusCode, 201, 'the refused registration left no tenant behind')
    })

    t.test('unknown address and wrong password answer the same', async (t) => {
      const wrong = await send('POST', '/auth/login', { ...login, password: 'wrong' })
      const unknown = await send('POST', '/auth/login', {
        ...login,
        email: `nobody.${tag}@example.com`
      })
      t.equal(wrong.statusCode, 401)
      const { request_id: _, ...problem } = wrong.json()
      t.match(unknown.json(), problem)
      t.equal(unknown.statusCode, wrong.statusCode)
    })

    t.test(`a refresh token is good once, and its reuse ${on.signIn.reuse}`, async (t) => {
      const first = (await send('POST', '/auth/login', login)).json()
      const other = (await send('POST', '/auth/login', login)).json()
      const second = await send('POST', '/auth/refresh', { refresh_token: first.refresh_token })
      t.equal(second.statusCode, 200)
      t.equal((await as(second.json().token)('GET', '/auth/me')).statusCode, 200)

      const reused = await send('POST', '/auth/refresh', { refresh_token: first.refresh_token })
      const { refresh_token } = second.json()
      const descendant = await send('POST', '/auth/refresh', { refresh_token })
      if (on.signIn.reuse === 'is tolerated') {
        t.equal(reused.statusCode, 200)
        t.equal(reused.json().refresh_token, refresh_token, 'its answer may have been lost')
        t.equal(descendant.statusCode, 200, 'and the session goes on')
      } else {
        t.match([reused.statusCode, reused.json().code], [401, 'invalid_refresh_token'])
        t.equal(descendant.statusCode, 401, 'the whole family is over')
      }
      const unrelated = { refresh_token: other.refresh_token }
      t.equal((await send('POST', '/auth/refresh', unrelated)).statusCode, 200, 'and no other')
    })

    t.test(`many uses of a refresh token at once: reuse ${on.signIn.reuse}`, async (t) => {
      const { refresh_token } = (await send('POST', '/auth/login', login)).json()
      const uses = Array.from({ length: 10 }, () =>
        send('POST', '/auth/refresh', { refresh_token })
      )
      const answers = await Promise.all(uses)
      const won = answers.filter(({ statusCode }) => statusCode === 200)
      const renewed = won[0]?.json().refresh_token ?? refresh_token
      const after = await send('POST', '/auth/refresh', { refresh_token: renewed })
      if (on.signIn.reuse === 'is tolerated') {
        const given = new Set(won.map((answer) => answer.json().refresh_token))
        t.equal(given.size, 1, 'all that succeed get the same')
        t.equal(after.statusCode, 200, 'and the session goes on')
      } else {
        t.ok(won.length <= 1)
        t.ok(answers.every(({ statusCode }) => statusCode === 200 || statusCode === 401))
        t.equal(after.statusCode, 401, 'the session is over')
      }
    })

    t.test('logging out ends the session', async (t) => {
      const { token, refresh_token } = (await send('POST', '/auth/login', login)).json()
      t.equal((await as(token)('POST', '/auth/logout')).statusCode, 204)
      t.equal((await send('POST', '/auth/refresh', { refresh_token })).statusCode, 401)
      t.equal((await as(token)('POST', '/auth/logout')).statusCode, 204, 'twice is fine')
    })

    t.test('neither kind of token passes for the other', async (t) => {
      const { token, refresh_token } = (await send('POST', '/auth/login', login)).json()
      t.equal((await as(refresh_token)('GET', '/auth/me')).statusCode, 401)
      t.equal((await send('POST', '/auth/refresh', { refresh_token: token })).statusCode, 401)
    })
  })

t.test('a sign-in costs one verification, whether the address is known or not', async (t) => {
  let verifications = 0
  const hasher = {
    hash: cheapHasher.hash,
    verify(hash: string, password: string) {
      verifications++
      return verify(hash, password)
    }
  }
  const { send } = await testApi(t, { hasher })
  await send('POST', '/auth/register', registration)
  for (const attempt of [
    { ...login, password: 'wrong' },
    { ...login, email: 'nobody@example.com' }
  ]) {
    verifications = 0
    t.equal((await send('POST', '/auth/login', attempt)).statusCode, 401)
    t.equal(verifications, 1, attempt.email)
  }
})

t.test('the hash that unknown addresses are held against costs what the others do', async (t) => {
  const hashes: string[] = []
  const hasher = {
    hash: cheapHasher.hash,
    verify(hash: string, password: string) {
      hashes.push(hash)
      return verify(hash, password)
    }
  }
  const { send } = await testApi(t, { hasher })
  await send('POST', '/auth/register', registration)
  await send('POST', '/auth/login', { ...login, password: 'wrong' })
  await send('POST', '/auth/login', { ...login, email: 'nobody@example.com' })
  const [known, unknown] = hashes.slice(-2).map((hash) => hash.split('$').slice(0, 4))
  t.strictSame(unknown, known, 'same algorithm, version and parameters')
})

t.test('registration can be closed', async (t) => {
  const { send } = await testApi(t, { env: { REGISTRATION: 'closed' } })
  const answer = await send('POST', '/auth/register', registration)
  t.match([answer.statusCode, answer.json().code], [403, 'registration_closed'])
})

t.test('sign-in attempts of an address are limited', async (t) => {
  const { send } = await testApi(t, { env: { AUTH_RATE_LIMIT_PER_MINUTE: '3' } })
  const attempts = []
  for (let i = 0; i < 4; i++) attempts.push(await send('POST', '/auth/login', login))
  t.strictSame(
    attempts.map(({ statusCode }) => statusCode),
    [401, 401, 401, 429]
  )
  const limited = attempts[3] as (typeof attempts)[0]
  t.equal(limited.json().code, 'rate_limited')
  t.match(limited.headers['content-type'], 'application/problem+json')
  t.ok(Number(limited.headers['retry-after']) > 0)
})

t.test('so are registrations and refreshes, each by themselves', async (t) => {
  const { send } = await testApi(t, { env: { AUTH_RATE_LIMIT_PER_MINUTE: '1' } })
  for (const [url, body, status] of [
    ['/auth/login', login, 401],
    ['/auth/register', registration, 201],
    ['/auth/refresh', { refresh_token: 'none' }, 401]
  ] as const) {
    t.equal((await send('POST', url, body)).statusCode, status, url)
    t.equal((await send('POST', url, body)).statusCode, 429, url)
  }
})

t.test('a bad token is refused with a challenge', async (t) => {
  const { app } = await testApi(t)
  for (const authorization of ['', 'Bearer', 'Bearer x', 'Basic YTpi', 'Bearer a b', 'bearer  x']) {
    const answer = await app.inject({ url: '/api/flows', headers: { authorization } })
    t.match([answer.statusCode, answer.json().code], [401, 'unauthenticated'], authorization)
    t.equal(answer.headers['www-authenticate'], 'Bearer')
  }
})

t.test('the scheme of a token may be in any case, as RFC 9110 has it', async (t) => {
  const api = await testApi(t)
  const { token } = await api.register()
  for (const authorization of [`bearer ${token}`, `BEARER  ${token}`])
    t.equal(
      (await api.app.inject({ url: '/api/flows', headers: { authorization } })).statusCode,
      200
    )
})

t.test(
  'an identity that cannot tell who calls admits nobody, though it rejects without an error',
  async (t) => {
    const storage = await memory.open(t)
    const local = await openLocalIdentity({ storage, secret: randomUUID(), hasher: cheapHasher })
    const identity = { ...local, verify: () => Promise.reject() }
    const api = await testApi(t, { storage, identity })
    const { token } = (await api.send('POST', '/auth/register', registration)).json()
    t.equal((await api.as(token)('GET', '/users')).statusCode, 500)
  }
)

t.test('a token that is in use ends when its time is over', async (t) => {
  const { send } = await (await testApi(t)).register()
  t.equal((await send('GET', '/users/me')).statusCode, 200)
  passTime(t, 15 * 60_000)
  t.equal((await send('GET', '/users/me')).statusCode, 401)
})

t.test('a session that is in use is not pruned', async (t) => {
  const { storage, register, send } = await testApi(t)
  let { refreshToken: refresh_token } = await register()
  for (const day of [20, 40, 60]) {
    passTime(t, 20 * 24 * 60 * 60_000)
    const env = readEnvironment({ NODE_ENV: 'test' })
    const log = { info() {}, warn() {} }
    await prune({ storage, env, log, now: () => new Date(Date.now()) })
    const renewed = await send('POST', '/auth/refresh', { refresh_token })
    t.equal(renewed.statusCode, 200, `on day ${day}`)
    refresh_token = renewed.json().refresh_token
  }
})

t.test('what is stored when the storage goes away is not said to be undone', async (t) => {
  const sound = await memory.open(t)
  const troubled = troubledStorage(sound)
  const { send, as } = await testApi(t, { storage: troubled.storage })
  const during = <T>(ask: () => Promise<T>) => troubled.trouble(goneAfterCommit(sound), ask)

  const lost = await during(() => send('POST', '/auth/register', registration))
  t.equal(lost.statusCode, 503)
  t.match(lost.json(), { code: 'outcome_unknown', detail: /are made, and not signed in/ })
  const signedIn = (await send('POST', '/auth/login', login)).json()
  t.equal(signedIn.user.tenant_name, registration.tenant_name)

  const { refresh_token } = signedIn
  const renewed = await during(() => send('POST', '/auth/refresh', { refresh_token }))
  t.equal(renewed.statusCode, 200, 'the old token is used up')
  t.equal((await as(renewed.json().token)('GET', '/auth/me')).statusCode, 200)
  const body = { refresh_token: renewed.json().refresh_token }
  t.equal((await send('POST', '/auth/refresh', body)).statusCode, 200)
})

t.test('sign-in and refresh go by what another process has just changed', async (t) => {
  const storage = await memory.open(t)
  const identity = await openLocalIdentity({ storage, secret: randomUUID(), hasher: cheapHasher })
  const here = await testApi(t, { storage, identity })
  const elsewhere = await testApi(t, { storage, identity })
  const admin = await elsewhere.register()
  const password = 'one that the admin gave'
  const changed = async () => {
    const person = await elsewhere.person(admin, 'viewer')
    t.equal((await here.as(person.token)('GET', '/flows')).statusCode, 200)
    await admin.send('PATCH', `/users/${person.id}`, { role: 'editor', password })
    return person
  }
  const { refreshToken: refresh_token } = await changed()
  t.equal((await here.send('POST', '/auth/refresh', { refresh_token })).statusCode, 401)
  const { email } = await changed()
  const { token } = (await here.send('POST', '/auth/login', { email, password })).json()
  t.equal((await here.as(token)('POST', '/flows', { name: 'F' })).statusCode, 201)
})

t.test('a new password ends sessions where the clock was put back, too', async (t) => {
  const api = await testApi(t)
  const admin = await api.register()
  const person = await api.person(admin, 'viewer')
  mock.timers.enable({ apis: ['Date'], now: Date.now() - 60_000 })
  t.teardown(() => mock.timers.reset())
  const password = 'one that the admin gave'
  await admin.send('PATCH', `/users/${person.id}`, { password })
  t.equal((await person.send('GET', '/users/me')).statusCode, 401)
  const signedIn = await api.send('POST', '/auth/login', { email: person.email, password })
  t.equal((await api.as(signedIn.json().token)('GET', '/users/me')).statusCode, 200)
})

t.test('a port that the proxy writes makes no other client', async (t) => {
  const addresses = [
    ['203.0.113.6:40001', '203.0.113.6:40002', '203.0.113.6', '[::ffff:203.0.113.6]:40003'],
    ['[2001:db8::1]:40001', '[2001:db8::1]', '2001:db8::1', '2001:db8::2'],
    ['unknown', '_hidden', '203.0.113', '']
  ]
  for (const same of addresses) {
    const { app } = await testApi(t, {
      env: { TRUST_PROXY: 'loopback', AUTH_RATE_LIMIT_PER_MINUTE: '4' }
    })
    const signIn = (address: string, n: number) =>
      app.inject({
        method: 'POST',
        url: '/api/auth/login',
        headers: { 'x-forwarded-for': address },
        payload: { email: `nobody${n}@example.com`, password: 'x' }
      })
    for (const [n, address] of same.entries())
      t.equal((await signIn(address, n)).statusCode, 401, address)
    for (const address of same) t.equal((await signIn(address, 9)).statusCode, 429, address)
    t.equal((await signIn('198.51.100.7:40001', 9)).statusCode, 401, 'another client')
  }
})
