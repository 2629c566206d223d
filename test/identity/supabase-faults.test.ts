import { randomUUID } from 'node:crypto'
import t, { type Test } from 'tap'
import { openSupabaseIdentity } from '../../adapters/identity/supabase.js'
import { connectAuthServer } from '../../adapters/identity/supabase-auth.js'
import { ACROSS_TENANTS } from '../../adapters/storage/port.js'
import { createStorage } from '../../adapters/storage/storage.js'
import { openSupabase } from '../../adapters/storage/supabase.js'
import { users } from '../../schemas/users.js'
import { testApi } from '../support/api.js'
import { type Fault, startFaultProxy } from '../support/fault-proxy.js'
import { logLines } from '../support/log-lines.js'
import { withStack } from '../support/postgres-stack.js'
import { openSupabaseProject, type SupabaseProject, tidyPlace } from '../support/supabase-stack.js'
import { adminOf, removeAccount, tidyIdentity } from '../support/tidy-identity.js'

const makeAccount = /^POST \/auth\/v1\/admin\/users/
const changeAccount = /^PUT \/auth\/v1\/admin\/users/
const deleteAccount = /^DELETE \/auth\/v1\/admin\/users/
const commit = /^POST \/rest\/v1\/rpc\/apply_changes/
const auth = / \/auth\/v1\//

/** Steps that break at once, each for so many times. */
type Breaks = readonly (readonly [step: RegExp, fault: Fault, times?: number])[]

/**
 * The API on a project, local or live, behind a proxy that breaks its requests, and what the
 * project itself says of a user.
 */
async function setStage(
  t: Test,
  project: SupabaseProject,
  { logger, timeoutMs }: { logger?: object; timeoutMs?: number } = {}
) {
  const proxy = await startFaultProxy(project.url)
  t.teardown(() => proxy.close())
  const { key } = project
  const place = tidyPlace({ url: proxy.url, key })
  t.teardown(async () => {
    proxy.heal()
    await place.dispose()
  })
  const storage = createStorage(await place.open())
  t.teardown(() => storage.close())
  const warnings: string[] = []
  const options = {
    url: proxy.url,
    key,
    storage,
    issuer: `${project.url}/auth/v1`,
    // Nobody else makes accounts here: what has no row was left behind, by whatever clock.
    creationMs: Number.NEGATIVE_INFINITY,
    ...(timeoutMs ? { timeoutMs } : {}),
    onWarning: (message: string) => warnings.push(message)
  }
  const identity = tidyIdentity(t, project, await openSupabaseIdentity(options))
  const api = await testApi(t, { storage, identity, ...(logger ? { logger } : {}) })
  const direct = createStorage(await openSupabase(project))
  t.teardown(() => direct.close())
  const server = connectAuthServer(project.url, key, 10_000)
  let count = 0

  const stage = {
    api,
    proxy,
    warnings,
    options,
    identity,
    direct,
    person: () => `person${++count}.${api.tag}@example.com`,
    /** Both sides of the user with an address. */
    async sides(email: string) {
      const from = { resource: users, tenant: ACROSS_TENANTS } as const
      const { rows } = await direct.list(from, { filter: { email }, limit: 1 })
      return { row: rows[0]?.id ?? null, account: (await server.findUser(email))?.id ?? null }
    },
    async agree(t: Test, email: string, what: string) {
      const { row, account } = await stage.sides(email)
      t.equal(account, row, `row and account agree ${what}`)
      return row
    },
    login: (email: string, password: string) =>
      api.send('POST', '/auth/login', { email, password }).then(({ statusCode }) => statusCode)
  }
  return stage
}
type Stage = Awaited<ReturnType<typeof setStage>>

function describe(breaks: Breaks): string {
  return breaks
    .map(([step, fault, times = 1]) => `${step.source.replaceAll('\\', '')} ${fault} × ${times}`)
    .join(', ')
}

function breakSteps({ proxy }: Stage, breaks: Breaks): void {
  for (const [step, fault, times = 1] of breaks) proxy.fail(step, fault, times)
}

/** Whatever broke, nobody is told that it was his mistake, or ours, or that it worked. */
const trouble = /^(unavailable|outcome_unknown)$/

const createBreaks: readonly Breaks[] = [
  [[makeAccount, 'before']],
  [[makeAccount, 'after']],
  [[makeAccount, { status: 500, body: '{"code":"unexpected_failure"}' }]],
  [[makeAccount, { status: 504, body: '<html>Gateway timeout</html>' }]],
  [
    [makeAccount, 'after'],
    [deleteAccount, 'before', 3]
  ],
  [[commit, 'before']],
  [[commit, 'after']],
  [[commit, { status: 540, body: 'paused' }]],
  [
    [commit, { status: 540, body: 'paused' }],
    [deleteAccount, 'before', 3]
  ],
  [
    [commit, { status: 540, body: 'paused' }],
    [deleteAccount, 'after']
  ]
]

async function testCreate(t: Test, project: SupabaseProject) {
  const stage = await setStage(t, project)
  const { api, proxy } = stage
  const admin = await api.register()
  const ways = {
    'by an admin': (email: string, password: string) =>
      admin.send('POST', '/users', { email, password, name: 'P' }),
    'by registering': (email: string, password: string) =>
      api.send('POST', '/auth/register', { email, password, name: 'P', tenant_name: `T ${email}` })
  }
  for (const [way, make] of Object.entries(ways))
    for (const breaks of createBreaks)
      await t.test(`${way}: ${describe(breaks)}`, async (t) => {
        const [email, password] = [stage.person(), 'a good password']
        breakSteps(stage, breaks)
        const answer = await make(email, password)
        // A lost answer is looked up, where that works.
        if (answer.statusCode !== 201) t.match(answer.json(), { status: 503, code: trouble })
        proxy.heal()
        const { row, account } = await stage.sides(email)
        t.ok(row === null || row === account, 'no row is without its account')
        t.ok(row !== null || answer.statusCode === 503, 'what succeeded is there')

        const repeated = await make(email, password)
        if (row) t.equal(repeated.json().code, 'already_exists', 'it was stored all the same')
        else t.equal(repeated.statusCode, 201, 'a repeat makes it')
        t.ok(await stage.agree(t, email, 'afterwards'))
        t.equal(await stage.login(email, password), 200)
      })
}

async function testLate(t: Test, project: SupabaseProject) {
  const stage = await setStage(t, project, { timeoutMs: 3000 })
  const { api, proxy } = stage
  const admin = await api.register()
  const password = 'a good password'

  await t.test('an answer that never comes, to an account that was made', async (t) => {
    const email = stage.person()
    breakSteps(stage, [[makeAccount, 'silent']])
    const answer = await admin.send('POST', '/users', { email, password, name: 'P' })
    // It is looked up.
    t.equal(answer.statusCode, 201)
    t.equal(await stage.agree(t, email, 'afterwards'), answer.json().id)
    t.equal(await stage.login(email, password), 200)
  })

  for (const key of [undefined, 'the same'])
    await t.test(
      `an account that is made after all was given up, repeated with key ${key}`,
      async (t) => {
        const email = stage.person()
        const make = () =>
          admin.send(
            'POST',
            '/users',
            { email, password, name: 'P' },
            key ? { 'idempotency-key': key } : {}
          )
        breakSteps(stage, [[makeAccount, 'late']])
        t.match([(await make()).statusCode], [503])
        t.strictSame(await stage.sides(email), { row: null, account: null })
        proxy.heal()
        while ((await stage.sides(email)).account === null);
        t.equal(await stage.login(email, password), 401, 'it signs nobody in')
        t.equal((await make()).statusCode, 201, 'and gives way')
        t.ok(await stage.agree(t, email, 'afterwards'))
        t.equal(await stage.login(email, password), 200)
      }
    )

  await t.test('a change that is made after all was given up', async (t) => {
    const { id, email } = await api.person(admin, 'editor')
    const next = stage.person()
    breakSteps(stage, [[changeAccount, 'late']])
    const change = { email: next, password: 'the next password' }
    const answer = await admin.send('PATCH', `/users/${id}`, change)
    t.match([answer.statusCode, answer.json().code], [503, 'outcome_unknown'])
    proxy.heal()
    while ((await stage.sides(next)).account === null);
    t.equal((await admin.send('PATCH', `/users/${id}`, change)).statusCode, 200, 'a repeat')
    t.equal(await stage.agree(t, next, 'afterwards'), id)
    t.strictSame(await stage.sides(email), { row: null, account: null })
    t.equal(await stage.login(next, 'the next password'), 200)
  })

  await t.test('an account that is deleted without a word', async (t) => {
    const { id, email } = await api.person(admin, 'editor')
    breakSteps(stage, [[deleteAccount, 'silent']])
    t.equal((await admin.send('DELETE', `/users/${id}`)).statusCode, 204)
    t.strictSame(await stage.sides(email), { row: null, account: null })
  })
}

const updateBreaks: readonly Breaks[] = [
  [[changeAccount, 'before']],
  [[changeAccount, 'after']],
  [[changeAccount, { status: 502, body: '' }]],
  [[changeAccount, 'after', 2]],
  [[commit, 'before']],
  [[commit, 'after']],
  [[commit, { status: 540, body: 'paused' }]],
  [
    [commit, { status: 540, body: 'paused' }],
    [changeAccount, 'none'],
    [changeAccount, 'before']
  ]
]

async function testUpdate(t: Test, project: SupabaseProject) {
  const stage = await setStage(t, project)
  const { api, proxy } = stage
  const admin = await api.register()

  for (const breaks of updateBreaks)
    await t.test(`address and password: ${describe(breaks)}`, async (t) => {
      const { id, email: old, password: oldPassword } = await api.person(admin, 'editor')
      const change = { email: stage.person(), password: 'another password' }
      breakSteps(stage, breaks)
      const answer = await admin.send('PATCH', `/users/${id}`, change)
      t.match([answer.statusCode, answer.json().code], [503, 'outcome_unknown'])
      proxy.heal()
      t.equal((await admin.send('PATCH', `/users/${id}`, change)).statusCode, 200, 'a repeat')
      t.equal(await stage.agree(t, change.email, 'at the new address'), id)
      t.strictSame(await stage.sides(old), { row: null, account: null })
      t.equal(await stage.login(change.email, change.password), 200)
      t.equal(await stage.login(change.email, oldPassword), 401)
    })

  for (const breaks of [
    [[changeAccount, 'before']],
    [[changeAccount, 'after']],
    [[commit, 'before']],
    [[commit, 'after']],
    [[commit, { status: 540, body: 'paused' }]]
  ] as const satisfies readonly Breaks[])
    await t.test(`the address alone, without a repeat: ${describe(breaks)}`, async (t) => {
      const { id, email: old, password } = await api.person(admin, 'editor')
      const email = stage.person()
      breakSteps(stage, breaks)
      const answer = await admin.send('PATCH', `/users/${id}`, { email })
      t.match([answer.statusCode, answer.json().code], [503, trouble])
      proxy.heal()
      const [before, after] = [
        await stage.agree(t, old, 'before'),
        await stage.agree(t, email, 'after')
      ]
      t.strictSame([before, after].sort(), [id, null].sort())
      t.equal(await stage.login(before ? old : email, password), 200)
    })

  await t.test('a row whose account was deleted gets one with its next password', async (t) => {
    const { id, email } = await api.person(admin, 'editor')
    await removeAccount(project, id)
    t.equal((await admin.send('PATCH', `/users/${id}`, { name: 'Other' })).statusCode, 200)
    const password = 'the next password'
    t.equal((await admin.send('PATCH', `/users/${id}`, { password })).statusCode, 200)
    t.equal(await stage.agree(t, email, 'again'), id)
    t.equal(await stage.login(email, password), 200)
  })
}

async function testRemove(t: Test, project: SupabaseProject) {
  const stage = await setStage(t, project)
  const { api, proxy, warnings } = stage
  const admin = await api.register()
  const password = 'the password of the next'

  for (const breaks of [
    [[commit, 'before']],
    [[commit, 'after']],
    [[commit, { status: 540, body: 'paused' }]],
    [[deleteAccount, 'before', 3]],
    [[deleteAccount, { status: 500, body: '{}' }, 3]]
  ] as const satisfies readonly Breaks[])
    await t.test(describe(breaks), async (t) => {
      const { id, email, send } = await api.person(admin, 'editor')
      breakSteps(stage, breaks)
      const answer = await admin.send('DELETE', `/users/${id}`)
      t.match([answer.statusCode, answer.json().code], [503, trouble])
      proxy.heal()
      const { row, account } = await stage.sides(email)
      t.ok(row === null || row === account, 'no row is without its account')
      if (breaks[0][0] === commit) t.equal(account, row, 'nor is the account without its row')
      const signedIn = (await send('GET', '/auth/me')).statusCode
      t.equal(signedIn, row ? 200 : 401, 'who has no row is nobody, token or not')

      const repeated = await admin.send('DELETE', `/users/${id}`)
      t.equal(repeated.statusCode, row ? 204 : 404)
      t.equal((await stage.sides(email)).row, null)
      const next = await admin.send('POST', '/users', { email, password, name: 'Next' })
      t.equal(next.statusCode, 201, 'the address is free again')
      t.equal(await stage.agree(t, email, 'afterwards'), next.json().id)
      t.not(next.json().id, id, 'and is somebody else: old tokens name nobody')
      t.equal(await stage.login(email, password), 200)
    })

  await t.test('a lost answer to the last step is asked for again', async (t) => {
    for (const times of [1, 2]) {
      const { id, email } = await api.person(admin, 'editor')
      breakSteps(stage, [[deleteAccount, 'after', times]])
      t.equal((await admin.send('DELETE', `/users/${id}`)).statusCode, 204)
      t.strictSame(await stage.sides(email), { row: null, account: null })
    }
  })

  t.ok(warnings.length > 0 && warnings.every((each) => /Supabase Auth (still|may) ha/.test(each)))
}

async function testForeign(t: Test, project: SupabaseProject) {
  const stage = await setStage(t, project)
  const { api, options } = stage
  const admin = await api.register()
  const password = 'a good password'

  await t.test('an account that another app of the project made is nobody’s to take', async (t) => {
    const email = stage.person()
    const made = await adminOf(project).createUser({ email, password, email_confirm: true })
    const id = made.data.user?.id as string
    t.teardown(() => removeAccount(project, id))
    const tenant_name = `T ${email}`
    for (const answer of [
      await admin.send('POST', '/users', { email, password: 'another one', name: 'Eve' }),
      await admin.send('PATCH', '/users/me', { email, current_password: admin.password }),
      await api.send('POST', '/auth/register', { email, password, name: 'Eve', tenant_name })
    ])
      t.match([answer.statusCode, answer.json().code], [409, 'already_exists'])
    t.strictSame(await stage.sides(email), { row: null, account: id })
    t.equal(await stage.login(email, password), 401, 'and signs nobody in here')
    t.equal(await stage.agree(t, admin.email, 'after a refused change'), admin.id)
  })

  await t.test('nor is one that was written into the tables of Auth by hand', async (t) => {
    const email = stage.person()
    const holder = { id: randomUUID(), email, app_metadata: null, created_at: '2020-01-01' }
    const { proxy } = stage
    const exists = '{"code":"email_exists","message":"already registered"}'
    proxy.fail(makeAccount, { status: 422, body: exists })
    proxy.fail(/^GET \/auth\/v1\/admin\/users/, {
      status: 200,
      body: JSON.stringify({ users: [holder] })
    })
    const answer = await admin.send('POST', '/users', { email, password, name: 'Eve' })
    proxy.heal()
    t.match([answer.statusCode, answer.json().code], [409, 'already_exists'])
  })

  await t.test('an address is not taken from a user who gave up nothing', async (t) => {
    const { email } = await api.person(admin, 'viewer')
    const stranger = await api.register()
    for (const answer of [
      await stranger.send('POST', '/users', { email, password, name: 'Eve' }),
      await stranger.send('PATCH', '/users/me', { email, current_password: stranger.password })
    ])
      t.match([answer.statusCode, answer.json().code], [409, 'already_exists'])
    t.ok(await stage.agree(t, email, 'still'))
    t.ok(await stage.agree(t, stranger.email, 'still'))
  })

  await t.test('an account without a row may be one that is just being made', async (t) => {
    const { creationMs: _, ...patient } = options
    const identity = tidyIdentity(t, project, await openSupabaseIdentity(patient))
    const email = stage.person()
    const first = { id: '019b76da-a800-7000-8000-00000000f001', email, password }
    await identity.createAccount(first)
    const second = { ...first, id: '019b76da-a800-7000-8000-00000000f002' }
    await t.rejects(identity.createAccount(second), { code: 'email_busy' })
    t.equal((await stage.sides(email)).account, first.id)
  })

  await t.test('an account whose address nobody confirmed signs nobody in', async (t) => {
    const email = stage.person()
    const made = await adminOf(project).createUser({ email, password })
    t.teardown(() => removeAccount(project, made.data.user?.id as string))
    t.equal(await stage.login(email, password), 401)
  })

  await t.test('one that the operator of the project has banned signs nobody in', async (t) => {
    const { email, password, refreshToken: refresh_token } = await api.person(admin, 'viewer')
    const body = '{"code":"user_banned","message":"User is banned"}'
    for (const [url, given] of [
      ['/auth/login', { email, password }],
      ['/auth/refresh', { refresh_token }]
    ] as const) {
      stage.proxy.fail(/^POST \/auth\/v1\/token/, { status: 400, body })
      t.equal((await api.send('POST', url, given)).statusCode, 401, url)
      stage.proxy.heal()
    }
  })
}

async function testAtOnce(t: Test, project: SupabaseProject) {
  const stage = await setStage(t, project)
  const { api, options } = stage
  const admin = await api.register()

  await t.test('two make the same user: one does', async (t) => {
    const { creationMs: _, ...patient } = options
    const identity = tidyIdentity(t, project, await openSupabaseIdentity(patient))
    const careful = await testApi(t, { storage: options.storage, identity })
    const email = stage.person()
    const answers = await Promise.all(
      ['first password', 'second password'].map(async (password) => {
        const tenant_name = `T ${password} ${email}`
        const body = { email, password, name: 'P', tenant_name }
        return { password, answer: await careful.send('POST', '/auth/register', body) }
      })
    )
    const codes = answers.map(({ answer }) => answer.statusCode).sort()
    t.strictSame(codes, [201, 409])
    t.ok(await stage.agree(t, email, 'afterwards'))
    for (const { password, answer } of answers)
      t.equal(await stage.login(email, password), answer.statusCode === 201 ? 200 : 401)
  })

  await t.test('two give a user a new address: row and account have the same', async (t) => {
    for (let round = 0; round < 3; round++) {
      const { id } = await api.person(admin, 'editor')
      const addresses = [stage.person(), stage.person(), stage.person()]
      const answers = await Promise.all(
        addresses.map((email) => admin.send('PATCH', `/users/${id}`, { email }))
      )
      t.ok(answers.every(({ statusCode }) => statusCode === 200))
      for (const email of addresses) await stage.agree(t, email, `at ${email}`)
    }
  })
}

const signIn = 'POST /auth/v1/token?grant_type=password'
const signOut = 'POST /auth/v1/logout?scope=local'

async function testOwn(t: Test, project: SupabaseProject) {
  const stage = await setStage(t, project)
  const { api, proxy } = stage
  const admin = await api.register()
  const password = 'the next password'

  await t.test('the session that checks a password is ended', async (t) => {
    const person = await api.person(admin, 'viewer')
    const asked = async (current_password: string) => {
      const before = proxy.requests.length
      await person.send('PATCH', '/users/me', { name: 'Renamed', current_password })
      return proxy.requests.slice(before).filter((each) => auth.test(each))
    }
    t.strictSame(await asked('wrong'), [signIn])
    t.strictSame(await asked(person.password), [signIn, signOut])
    const refresh = { refresh_token: person.refreshToken }
    t.equal((await api.send('POST', '/auth/refresh', refresh)).statusCode, 200, 'and no other is')
  })

  for (const step of [/^POST \/auth\/v1\/token/, /^POST \/auth\/v1\/logout/])
    for (const fault of ['before', 'after'] as const)
      await t.test(`${step.source} ${fault}`, async (t) => {
        const person = await api.person(admin, 'viewer')
        const change = { password, current_password: person.password }
        breakSteps(stage, [[step, fault]])
        const answer = await person.send('PATCH', '/users/me', change)
        t.match([answer.statusCode, answer.json().code], [503, 'unavailable'])
        proxy.heal()
        t.equal(await stage.login(person.email, person.password), 200, 'nothing is changed')
        t.equal((await person.send('PATCH', '/users/me', change)).statusCode, 200, 'a repeat')
        t.equal(await stage.login(person.email, password), 200)
      })

  await t.test('an account of the address that is another’s does not do', async (t) => {
    const person = await api.person(admin, 'viewer')
    const { email, password } = person
    await removeAccount(project, person.id)
    const made = await adminOf(project).createUser({ email, password, email_confirm: true })
    t.teardown(() => removeAccount(project, made.data.user?.id as string))
    const change = { name: 'Renamed', current_password: password }
    const answer = await person.send('PATCH', '/users/me', change)
    t.match([answer.statusCode, answer.json().code], [422, 'wrong_password'])
  })
}

async function testRefused(t: Test, project: SupabaseProject) {
  const stage = await setStage(t, project)
  const { api, identity } = stage
  const admin = await api.register()
  const [email, password] = [stage.person(), 'another password']
  const own = { email, password, current_password: admin.password }
  const viewer = await api.person(admin, 'viewer')
  const stale = { 'if-match': '"1"' }

  for (const [why, answer] of [
    ['version', await admin.send('PATCH', '/users/me', own, stale)],
    ['password', await admin.send('PATCH', '/users/me', { ...own, current_password: 'wrong' })],
    ['address', await admin.send('PATCH', '/users/me', { ...own, email: viewer.email })]
  ] as const) {
    t.match(answer.json().code, /precondition_failed|wrong_password|already_exists/, why)
    t.equal(await stage.login(admin.email, admin.password), 200, why)
    t.equal(await stage.agree(t, admin.email, why), admin.id)
  }

  const taken = { email, password, name: 'P', tenant_name: 'T' }
  const { json } = await api.send('POST', '/auth/register', {
    ...taken,
    tenant_name: (await admin.send('GET', '/auth/me')).json().tenant_name
  })
  t.equal(json().code, 'already_exists')
  t.strictSame(await stage.sides(email), { row: null, account: null }, 'nothing is left behind')

  // Not every release of Auth looks at the password of a new account.
  const row = await stage.direct.get({ resource: users, tenant: ACROSS_TENANTS }, admin.id)
  const weak = identity.updateAccount(row as never, { password: 'x' })
  await t.rejects(weak, { code: 'password_refused' }, 'weaker than the project allows')
  t.equal(await stage.login(admin.email, admin.password), 200)
}

/** What stands between answers in the place of Auth, or nobody does. */
const silences: readonly Fault[] = [
  'before',
  'after',
  { status: 500, body: '{"code":"unexpected_failure","message":"Database error"}' },
  { status: 502, body: '<html>Bad gateway</html>' },
  { status: 503, body: '' },
  { status: 540, body: '<html>Project paused</html>' },
  {
    status: 429,
    body: '{"code":"over_request_rate_limit","message":"Request rate limit reached"}'
  },
  { status: 401, body: '{"message":"Invalid API key"}' },
  { status: 403, body: '{"code":"bad_jwt","message":"invalid JWT"}' },
  { status: 404, body: '<html>Not found</html>' },
  { status: 422, body: '{"code":"email_provider_disabled","message":"Email logins are disabled"}' },
  { status: 200, body: '<html>Log in to the Wi-Fi</html>' }
]

async function testDown(t: Test, project: SupabaseProject) {
  const stage = await setStage(t, project)
  const { api, proxy } = stage
  const admin = await api.register()
  t.equal((await admin.send('GET', '/flows')).statusCode, 200)

  for (const fault of silences)
    await t.test(JSON.stringify(fault), async (t) => {
      proxy.fail(auth, fault)
      const body = { email: stage.person(), password: 'a good password', name: 'P' }
      const before = proxy.requests.length
      const credentials = { email: admin.email, password: admin.password }
      const own = { email: stage.person(), current_password: admin.password }
      const refresh = { refresh_token: admin.refreshToken }
      const refreshed = await api.send('POST', '/auth/refresh', refresh)
      t.equal(proxy.requests.length, before + 1, 'a refresh is not repeated behind our back')
      for (const [what, answer] of Object.entries({
        refresh: refreshed,
        login: await api.send('POST', '/auth/login', credentials),
        change: await admin.send('PATCH', '/users/me', own),
        create: await admin.send('POST', '/users', body),
        register: await api.send('POST', '/auth/register', { ...body, tenant_name: 'T' })
      })) {
        t.match([answer.statusCode, answer.json().code], [503, 'unavailable'], what)
        t.ok(answer.headers['retry-after'], what)
      }
      t.equal((await admin.send('GET', '/flows')).statusCode, 200, 'who is signed in works on')
      proxy.heal()
      t.equal(await stage.login(admin.email, admin.password), 200, 'and it is over by itself')
    })
}

async function testSecrecy(t: Test, project: SupabaseProject) {
  const { stream, lines } = logLines()
  const printed = [
    t.capture(console, 'error'),
    t.capture(console, 'warn'),
    t.capture(console, 'log')
  ]
  const stage = await setStage(t, project, { logger: { level: 'trace', stream } })
  const password = 'the password that nobody reads'
  for (const fault of silences) {
    stage.proxy.fail(auth, fault)
    for (const body of [{}, { name: 'P', tenant_name: 'T' }]) {
      const url = 'name' in body ? '/auth/register' : '/auth/login'
      await stage.api.send('POST', url, { ...body, email: stage.person(), password })
    }
    stage.proxy.heal()
  }
  const log = lines.join('')
  t.match(log, 'Supabase Auth cannot be used')
  t.notMatch(log, password)
  t.notMatch(log, project.key)
  t.strictSame(
    printed.flatMap((calls) => calls()),
    [],
    'nothing is printed past the log'
  )
  t.notMatch(stage.warnings.join('\n'), new RegExp(`${password}|${project.key}`))
}

t.test('users on Supabase, broken in every step', (t) =>
  withStack(t, openSupabaseProject, async (project) => {
    await t.test('a user is made', (t) => testCreate(t, project))
    await t.test('answers that come late, or never', (t) => testLate(t, project))
    await t.test('a user is changed', (t) => testUpdate(t, project))
    await t.test('a user is removed', (t) => testRemove(t, project))
    await t.test('accounts that are not ours to take', (t) => testForeign(t, project))
    await t.test('two at once', (t) => testAtOnce(t, project))
    await t.test('users change their own', (t) => testOwn(t, project))
    await t.test('refused changes leave the account as it is', (t) => testRefused(t, project))
    await t.test('Supabase Auth is down', (t) => testDown(t, project))
    await t.test('neither keys nor passwords are told', (t) => testSecrecy(t, project))
  })
)
