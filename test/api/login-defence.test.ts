import type { FastifyBaseLogger } from 'fastify'
import t, { type Test } from 'tap'
import { openLocalIdentity } from '../../adapters/identity/local.js'
import { StorageError } from '../../adapters/storage/errors.js'
import { buildApp } from '../../src/app.js'
import { readEnvironment } from '../../src/configuration.js'
import { createLoginDefence } from '../../src/login-defence.js'
import { assertHardToGuess } from '../../src/passwords.js'
import { ApiError } from '../../src/problems.js'
import { connectRedis, shareRedis } from '../../src/redis.js'
import { cheapHasher, testApi } from '../support/api.js'
import { movableClocks } from '../support/pass-time.js'
import { startRedis } from '../support/redis.js'
import { testStorages } from '../support/storages.js'

const stranger = '192.0.2.1'
const owner = '192.0.2.2'
const email = 'ada@example.com'

/** A defence whose time stands until it is told to pass, and who is let in. */
function defenceAt() {
  let now = 1_000_000
  const defence = createLoginDefence(undefined, () => now)
  /** The seconds to wait, or 0. */
  async function refused(account: string, address: string): Promise<number> {
    try {
      const attempt = await defence.begin(account, address)
      attempt.abandoned()
      return 0
    } catch (error) {
      return Number(
        (error as { extra: { headers: { 'retry-after': string } } }).extra.headers['retry-after']
      )
    }
  }
  return {
    defence,
    refused,
    pass(seconds: number) {
      now += seconds * 1000
    },
    /** Fails as soon as that is allowed, so many times, and tells the wait after each. */
    async fail(
      times: number,
      account = email,
      address: string | ((n: number) => string) = stranger
    ) {
      const waits: number[] = []
      for (let n = 0; n < times; n++) {
        const from = typeof address === 'string' ? address : address(n)
        now += (await refused(account, from)) * 1000
        await defence.begin(account, from)
        waits.push(await refused(account, from))
      }
      return waits
    }
  }
}

t.test('the wait of one address grows, up to five minutes', async (t) => {
  const { fail, refused, pass } = defenceAt()
  t.strictSame(await fail(15), [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300])
  t.equal(await refused(email, owner), 0, 'another address does not wait')
  t.equal(await refused('eve@example.com', stranger), 0, 'nor does another account')
  pass(300 + 15 * 60)
  t.equal((await fail(1))[0], 0, 'forgotten')
})

t.test('a wait is no longer where the clock is put back', async (t) => {
  const clocks = movableClocks(t)
  const defence = createLoginDefence()
  for (let n = 0; n < 15; n++) {
    clocks.pass(300_000)
    await defence.begin(email, stranger)
  }
  clocks.putBack(60 * 60_000)
  const refused = await defence.begin(email, stranger).catch((error) => error)
  t.equal(refused.code, 'rate_limited')
  t.ok(Number(refused.extra.headers['retry-after']) <= 300, refused.message)
  clocks.pass(300_000)
  await t.resolves(defence.begin(email, stranger))
})

t.test('many addresses wait together, never longer than half a minute', async (t) => {
  const { fail } = defenceAt()
  const waits = await fail(40, email, (n) => `198.51.100.${n}`)
  t.strictSame(waits.slice(0, 19), Array(19).fill(0))
  t.strictSame(waits.slice(19, 26), [1, 2, 4, 8, 16, 30, 30])
})

t.test('strangers do not keep out who signed in before', async (t) => {
  const { defence, fail, refused } = defenceAt()
  ;(await defence.begin(email, owner)).succeeded()
  await fail(40, email, (n) => `198.51.100.${n}`)
  t.ok((await refused(email, '203.0.113.9')) > 0)
  t.equal(await refused(email, owner), 0)
  t.ok((await fail(9, email, owner)).at(-1), 'though guesses of this address count all the same')
})

t.test('an address is its owner’s for thirty days', async (t) => {
  const { defence, fail, refused, pass } = defenceAt()
  const day = 24 * 60 * 60
  ;(await defence.begin(email, owner)).succeeded()
  for (const [days, isSpared] of [
    [29, true],
    [2, false]
  ] as const) {
    pass(days * day)
    await fail(40, email, (n) => `198.51.100.${n}`)
    t.equal((await refused(email, owner)) === 0, isSpared)
  }
})

t.test('sign-ins from ever new addresses are no guesses', async (t) => {
  const { defence, refused } = defenceAt()
  for (let n = 0; n < 30; n++) (await defence.begin(email, `198.51.100.${n}`)).succeeded()
  t.equal(await refused(email, stranger), 0)
})

t.test('an account is one, in capitals too', async (t) => {
  const { fail, refused } = defenceAt()
  await fail(5)
  t.equal(await refused(email.toUpperCase(), stranger), 1)
})

t.test('addresses of one IPv6 network count as one, however they are written', async (t) => {
  const { fail, refused } = defenceAt()
  await fail(5, email, (n) => `2001:db8::${n.toString(16)}`)
  t.equal(await refused(email, '2001:DB8:0:0:1:2:3:4'), 1)
  t.equal(await refused(email, '2001:db8:0:1::'), 0, 'another network')
  await fail(5, email, () => '::ffff:192.0.2.7')
  t.ok((await refused(email, '192.0.2.7')) > 0, 'IPv4, as a socket for both tells it')
  t.equal(await refused(email, '::ffff:192.0.2.8'), 0)
})

t.test('tries at the same moment count before they end', async (t) => {
  const { defence, refused } = defenceAt()
  const begun = Array.from({ length: 5 }, () => defence.begin(email, stranger))
  const attempts = await Promise.all(begun)
  t.equal(await refused(email, stranger), 1)
  for (const attempt of attempts) attempt.abandoned()
  t.equal(await refused(email, stranger), 0, 'what came to no end does not count')
})

t.test('a sign-in clears what the address failed before', async (t) => {
  const { defence, fail } = defenceAt()
  await fail(4)
  ;(await defence.begin(email, stranger)).succeeded()
  t.strictSame(await fail(5), [0, 0, 0, 0, 1])
})

t.test('memory is bounded', async (t) => {
  const { fail, refused } = defenceAt()
  await fail(6)
  for (let i = 0; i < 25_000; i++) await fail(1, `made-up-${i}@example.com`, '203.0.113.1')
  t.equal(await refused(email, stranger), 0, 'the least recent are forgotten')
})

/** Two instances' defences on one Redis. */
async function defencesOn(t: Test, url: string) {
  const log = { warn() {}, info() {} } as unknown as FastifyBaseLogger
  const connect = async () => {
    const redis = await connectRedis(url)
    t.teardown(() => redis.disconnect())
    return { redis, defence: createLoginDefence(shareRedis(redis, log)) }
  }
  const instances = [await connect(), await connect()] as const
  return {
    instances,
    /** Tries by turns, so many times; tells how many were let through. */
    async guess(times: number, address: (n: number) => string) {
      let through = 0
      for (let n = 0; n < times; n++)
        await instances[(n % 2) as 0 | 1].defence.begin(email, address(n)).then(
          () => through++,
          () => {}
        )
      return through
    },
    /** Waits until Redis has what the instances told it without waiting. */
    settle: () => Promise.all(instances.map(({ redis }) => redis.ping()))
  }
}

t.test('instances count together in Redis, and each alone while it is away', async (t) => {
  const server = await startRedis(t)
  const { instances, guess, settle } = await defencesOn(t, server.url)
  const [one, two] = instances

  t.equal(await guess(8, () => stranger), 5)
  for (const { defence } of instances)
    await t.rejects(defence.begin(email, stranger), { code: 'rate_limited' })
  const keys = await one.redis.keys('*')
  t.ok(keys.length > 0 && !keys.join().includes(email), 'what was typed is nowhere in clear')

  const signIn = await one.defence.begin(email, owner)
  signIn.succeeded()
  await settle()
  t.equal(await guess(40, (n) => `198.51.100.${n}`), 15, 'and five before')
  await t.rejects(two.defence.begin(email, '203.0.113.9'), { code: 'rate_limited' })
  const spared = await two.defence.begin(email, owner)
  spared.abandoned()

  const attempts = await Promise.all(
    Array.from({ length: 4 }, () => one.defence.begin('eve@example.com', stranger))
  )
  for (const attempt of attempts) attempt.abandoned()
  await settle()
  for (let i = 0; i < 4; i++) await two.defence.begin('eve@example.com', stranger)
  const fifth = await two.defence.begin('eve@example.com', stranger)
  await t.rejects(one.defence.begin('eve@example.com', stranger), { code: 'rate_limited' })
  fifth.abandoned()
  await settle()
  await t.resolves(one.defence.begin('eve@example.com', stranger), 'nor does anybody wait for it')

  for (const key of await one.redis.keys('*'))
    t.ok((await one.redis.pttl(key)) > 0, 'all of it is forgotten some day')
  for (const key of await one.redis.keys('sign-in:failed:*'))
    await one.redis.hset(key, { count: 100, until: 0 })
  await two.defence.begin('eve@example.com', stranger)
  const most = await two.defence.begin('eve@example.com', stranger).catch((error) => error)
  t.match(most, { extra: { headers: { 'retry-after': '300' } } })

  await server.kill()
  const alone = 'bob@example.com'
  for (const { defence } of instances) {
    for (let i = 0; i < 5; i++) await defence.begin(alone, stranger)
    await t.rejects(defence.begin(alone, stranger), { code: 'rate_limited' })
  }
})

t.test('what Redis refuses is no failure that an instance remembers once it is away', async (t) => {
  const server = await startRedis(t)
  const { instances, settle } = await defencesOn(t, server.url)
  const [one, two] = instances
  for (let i = 0; i < 5; i++) await one.defence.begin(email, stranger)
  await settle()
  // However long this takes.
  for (const key of await one.redis.keys('sign-in:failed:*'))
    await one.redis.hset(key, { until: Date.now() + 600_000 })
  for (let i = 0; i < 9; i++)
    await t.rejects(two.defence.begin(email, stranger), { code: 'rate_limited' })
  await server.kill()
  for (let i = 0; i < 5; i++) await two.defence.begin(email, stranger)
  await t.rejects(two.defence.begin(email, stranger), { code: 'rate_limited' })
})

t.test('sign-ins at once from a new address leave nothing behind in Redis', async (t) => {
  const server = await startRedis(t)
  const { instances, settle } = await defencesOn(t, server.url)
  const [one] = instances
  const attempts = await Promise.all([1, 2, 3, 4].map(() => one.defence.begin(email, owner)))
  for (const attempt of attempts) attempt.succeeded()
  await settle()
  t.strictSame(await one.redis.keys('sign-in:failed:*'), [])
})

t.test('what Redis counts too late to say so is taken back, too', async (t) => {
  const server = await startRedis(t)
  const { instances, settle } = await defencesOn(t, server.url)
  const [one, two] = instances
  server.pause()
  t.teardown(() => server.resume())
  // An instance each: one to which it does not answer leaves it alone for a while.
  const [signIn, unclear] = await Promise.all([
    one.defence.begin(email, owner),
    two.defence.begin('eve@example.com', stranger)
  ])
  signIn.succeeded()
  unclear.abandoned()
  server.resume()
  await settle()
  t.strictSame(await one.redis.keys('sign-in:failed:*'), [])
  t.equal((await one.redis.keys('sign-in:known:*')).length, 1)
})

t.test('guesses with a stolen token count for all instances', async (t) => {
  const { url } = await startRedis(t)
  const instance = async () => {
    const redis = await connectRedis(url)
    t.teardown(() => redis.disconnect())
    return testApi(t, { redis })
  }
  const [one, two] = [await instance(), await instance()]
  const person = await one.person(await one.register(), 'viewer')
  const { email, password } = person
  const guess = { name: 'N', current_password: 'wrong' }
  for (let i = 0; i < 5; i++)
    t.equal((await person.send('PATCH', '/users/me', guess)).statusCode, 422)
  t.equal((await two.send('POST', '/auth/login', { email, password })).statusCode, 429)
})

for (const on of testStorages)
  t.test(`sign-in under attack on ${on.kind}`, { skip: on.skip }, async (t) => {
    const api = await testApi(t, { on })
    const admin = await api.register()
    const { tag } = api
    const guess = (address: string, password: string) =>
      api.send('POST', '/auth/login', { email: address, password })

    t.test('guesses are slowed down alike for a known and an unknown address', async (t) => {
      const person = await api.person(admin, 'viewer')
      const tell = async (address: string) => {
        const answers = []
        for (let i = 0; i < 6; i++) answers.push(await guess(address, `wrong ${i}`))
        return answers.map((answer) => {
          const { request_id: _, ...problem } = answer.json()
          return [problem, answer.headers['retry-after']]
        })
      }
      const known = await tell(person.email)
      t.match(known.at(-1), [{ status: 429, code: 'rate_limited' }, '1'])
      t.strictSame(await tell(`nobody.${tag}@example.com`), known)
      const right = await guess(person.email, person.password)
      t.equal(right.statusCode, 429, 'the right password is no way to tell, either')
    })

    t.test('guesses with a stolen token count as sign-ins, and the other way round', async (t) => {
      const person = await api.person(admin, 'viewer')
      const name = 'Renamed'
      const change = (current_password: string) =>
        person.send('PATCH', '/users/me', { name, current_password })
      for (let i = 0; i < 2; i++) {
        t.equal((await guess(person.email, `wrong ${i}`)).statusCode, 401)
        t.equal((await change(`wrong ${i}`)).statusCode, 422)
      }
      t.equal((await change(person.password)).statusCode, 200, 'a right one clears them')
      for (let i = 0; i < 5; i++) t.equal((await change(`wrong ${i}`)).statusCode, 422)
      const refused = await change(person.password)
      t.match([refused.statusCode, refused.json().code], [429, 'rate_limited'])
      t.equal(refused.headers['retry-after'], '1')
      t.equal((await guess(person.email, person.password)).statusCode, 429)
      t.equal((await person.send('PATCH', '/users/me', { name })).statusCode, 200, 'a name goes on')
    })

    t.test('a password that is known from leaks is refused, wherever it is set', async (t) => {
      const person = await api.person(admin, 'viewer')
      const body = { name: 'Eve', email: `eve.${tag}@example.com` }
      for (const password of ['password1', 'PASSWORD1', 'admin123', '12312312', '87654321'])
        for (const answer of [
          await api.send('POST', '/auth/register', {
            ...body,
            tenant_name: `Eve ${tag}`,
            password
          }),
          await admin.send('POST', '/users', { ...body, password }),
          await admin.send('PATCH', `/users/${person.id}`, { password }),
          await person.send('PATCH', '/users/me', {
            password,
            current_password: person.password
          })
        ])
          t.match([answer.statusCode, answer.json().code], [422, 'password_refused'], password)
      t.equal((await guess(person.email, person.password)).statusCode, 200, 'and nothing changed')
    })

    t.test('changing the own password ends the other sessions', async (t) => {
      const person = await api.person(admin, 'viewer')
      const other = (await guess(person.email, person.password)).json()
      t.equal((await api.as(other.token)('GET', '/users/me')).statusCode, 200)
      const password = `the next password of ${tag}`
      const change = { password, current_password: person.password }
      t.equal((await person.send('PATCH', '/users/me', change)).statusCode, 200)
      t.equal((await person.send('GET', '/users/me')).statusCode, 200, 'this one goes on')
      t.equal((await api.as(other.token)('GET', '/users/me')).statusCode, 401)
      // Supabase Auth ends its refresh tokens itself.
      if (on.kind !== 'supabase') {
        const refresh = (refresh_token: string) =>
          api.send('POST', '/auth/refresh', { refresh_token })
        t.equal((await refresh(other.refresh_token)).statusCode, 401)
        const renewed = await refresh(person.refreshToken)
        t.equal(renewed.statusCode, 200)
        t.equal((await api.as(renewed.json().token)('GET', '/users/me')).statusCode, 200)
      }
      const again = await guess(person.email, password)
      t.equal((await api.as(again.json().token)('GET', '/users/me')).statusCode, 200)
    })

    t.test('resetting it ends them all, and what is shown says nothing of it', async (t) => {
      const person = await api.person(admin, 'viewer')
      const password = `a reset password of ${tag}`
      const reset = await admin.send('PATCH', `/users/${person.id}`, { password })
      t.notMatch(reset.body, 'sessions_from')
      t.notMatch(reset.body, 'session_kept')
      t.equal((await person.send('GET', '/users/me')).statusCode, 401)
      const renamed = await admin.send('PATCH', `/users/${person.id}`, { name: 'Renamed' })
      t.equal(renamed.statusCode, 200)
      const again = (await guess(person.email, password)).json()
      await admin.send('PATCH', `/users/${person.id}`, { name: 'Again' })
      t.equal((await api.as(again.token)('GET', '/users/me')).statusCode, 200, 'nothing else does')
    })
  })

t.test('what leaks have most of is refused, patterns included', async (t) => {
  const refused =
    'password 12345678 11111111 00000000 88888888 aaaaaaaa xxxxxxxxxx abcdefgh 87654321 0123456789 ' +
    '123123123 12341234 1212121212 abcabcabc Abcdefghij qwertyuiop 1q2w3e4r asdfasdf 12312312'
  for (const password of [
    ...refused.split(' '),
    ' '.repeat(8),
    '🙂'.repeat(8),
    // In another form they are longer, or no pattern.
    ...['äöüé', 'çéàùçéàù'].map((text) => text.normalize('NFD'))
  ])
    await t.rejects(assertHardToGuess(password), { code: 'password_refused' }, password)
  for (const password of ['correct horse', 'abcdefgi', '12345-abcde', 'aaaaaaab!', 'x9x9x9x9x7'])
    await t.resolves(assertHardToGuess(password), password)
})

t.test('an unknown address costs as many password hashes as a wrong password', async (t) => {
  let verified = 0
  const hasher = {
    ...cheapHasher,
    async verify(hash: string, password: string) {
      verified++
      return cheapHasher.verify(hash, password)
    }
  }
  const api = await testApi(t, { hasher })
  const { email } = await api.register()
  for (const address of [email, 'nobody@example.com']) {
    verified = 0
    await api.send('POST', '/auth/login', { email: address, password: 'wrong' })
    t.equal(verified, 1, address)
  }
})

t.test('a try that comes to no end says nothing of the password', async (t) => {
  const { defence, refused } = defenceAt()
  const failing = (error: Error) => () => Promise.reject(error)
  for (let i = 0; i < 9; i++)
    await t.rejects(defence.guard(email, stranger, failing(new StorageError('unavailable'))))
  t.equal(await refused(email, stranger), 0)
  for (let i = 0; i < 5; i++)
    await t.rejects(
      defence.guard(email, stranger, failing(new ApiError('wrong_password', 'It is wrong.')))
    )
  t.equal(await refused(email, stranger), 1)
})

t.test('a password that is changed while it is checked signs nobody in', async (t) => {
  let whileChecked = async () => {}
  const hasher = {
    ...cheapHasher,
    async verify(hash: string, password: string) {
      const right = await cheapHasher.verify(hash, password)
      await whileChecked()
      return right
    }
  }
  const api = await testApi(t, { hasher })
  const admin = await api.register()
  const person = await api.person(admin, 'viewer')
  whileChecked = async () => {
    whileChecked = async () => {}
    await admin.send('PATCH', `/users/${person.id}`, { password: 'changed meanwhile' })
  }
  const { email, password } = person
  t.equal((await api.send('POST', '/auth/login', { email, password })).statusCode, 401)
})

t.test(
  'what one process ends, another knows within a minute, without a read a request',
  async (t) => {
    const first = await testApi(t)
    const admin = await first.register()
    const person = await first.person(admin, 'viewer')
    t.comment(
      'the second process has the accounts in its cache for 60 s: src/recent-reads.ts, TTL_MS'
    )
    let reads = 0
    const counting = new Proxy(first.storage, {
      get(target, name) {
        if (name === 'get') reads++
        return Reflect.get(target, name)
      }
    })
    const identity = await openLocalIdentity({
      storage: counting,
      secret: 'x'.repeat(32),
      hasher: cheapHasher
    })
    const env = readEnvironment({ NODE_ENV: 'test', LLM_LOG_PATH: '/dev/null' })
    const second = await buildApp({
      env,
      storage: counting,
      identity,
      keyring: first.keyring,
      logger: false
    })
    t.teardown(() => second.close())
    const login = await second.inject({
      method: 'POST',
      url: '/api/auth/login',
      payload: { email: person.email, password: person.password }
    })
    const headers = { authorization: `Bearer ${login.json().token}` }
    const ask = async () => (await second.inject({ url: '/api/flows', headers })).statusCode
    await first.storage.ping()
    await ask()
    reads = 0
    for (let i = 0; i < 20; i++) t.equal(await ask(), 200)
    t.equal(reads, 0)
  }
)
