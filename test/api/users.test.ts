import { randomUUID } from 'node:crypto'
import t from 'tap'
import { openLocalIdentity } from '../../adapters/identity/local.js'
import { AccountError } from '../../adapters/identity/port.js'
import { ACROSS_TENANTS, type TenantId } from '../../adapters/storage/port.js'
import { users } from '../../schemas/users.js'
import { createEmailLimit } from '../../src/email-limit.js'
import { cheapHasher, testApi } from '../support/api.js'
import { memory, testStorages } from '../support/storages.js'

for (const on of testStorages)
  t.test(`users on ${on.kind}`, { skip: on.skip }, async (t) => {
    const api = await testApi(t, { on })
    const { tag } = api
    const tenant_name = `Acme ${tag}`
    const admin = await api.register(tenant_name)
    const { send } = admin
    const body = { name: 'Bob', email: `Bob.${tag}@Example.com`, password: 'first password' }
    const login = async (email: string, password: string) =>
      (await api.send('POST', '/auth/login', { email, password })).statusCode

    t.test('an admin creates a user, who can sign in', async (t) => {
      const created = await send('POST', '/users', body)
      t.equal(created.statusCode, 201)
      const user = created.json()
      t.match(user, { email: `bob.${tag}@example.com`, role: 'viewer', tenant_name })
      t.strictSame(
        Object.keys(user).filter((name) => name.startsWith('password')),
        []
      )
      const login = { email: `BOB.${tag}@example.com`, password: body.password }
      t.equal((await api.send('POST', '/auth/login', login)).statusCode, 200)
      const found = await send('GET', `/users?email=BOB.${tag}%40EXAMPLE.com`)
      t.strictSame(found.json(), [user])
      t.equal((await send('GET', '/users?role=editor')).json().length, 0)
    })

    t.test('an address is taken once, in every tenant', async (t) => {
      const stranger = await api.register()
      const answer = await stranger.send('POST', '/users', {
        ...body,
        email: `bob.${tag}@EXAMPLE.com`
      })
      t.match([answer.statusCode, answer.json().code], [409, 'already_exists'])
      t.match(answer.json().detail, 'email')
    })

    t.test('a new password replaces the old one', async (t) => {
      const [user] = (await send('GET', `/users?email=bob.${tag}%40example.com`)).json()
      const changed = await send('PATCH', `/users/${user.id}`, { password: 'second password' })
      t.equal(changed.statusCode, 200)
      t.equal(await login(body.email, 'first password'), 401)
      t.equal(await login(body.email, 'second password'), 200)
      const [entry] = (await send('GET', `/audit?resource_id=${user.id}&limit=1`)).json()
      t.strictSame(entry.fields, ['password'])
    })

    t.test('users change themselves, but not their role', async (t) => {
      const viewer = await api.person(admin, 'viewer')
      const changed = await viewer.send('PATCH', '/users/me', { name: 'Renamed' })
      t.match(changed.json(), { id: viewer.id, name: 'Renamed', role: 'viewer' })
      t.match((await viewer.send('GET', '/users/me')).json(), { name: 'Renamed' })
      t.equal((await viewer.send('PATCH', '/users/me', { role: 'admin' })).statusCode, 400)
      t.equal((await viewer.send('PATCH', '/users/me', {})).statusCode, 400)
    })

    t.test('users change their password and address with the password they have', async (t) => {
      const person = await api.person(admin, 'viewer')
      const { password: current_password, send } = person
      const email = `moved.${tag}@example.com`
      const password = 'the next password'
      const changed = await send('PATCH', '/users/me', { email, current_password })
      t.match(changed.json(), { id: person.id, email })
      t.notMatch(changed.body, 'current_password')
      t.equal(await login(person.email, current_password), 401)
      t.equal(
        (await send('PATCH', '/users/me', { password, current_password })).statusCode,
        200,
        'also at the new address'
      )
      t.equal(await login(email, current_password), 401)
      t.equal(await login(email, password), 200)
      const entries = await admin.send('GET', `/audit?resource_id=${person.id}&limit=2`)
      t.match(entries.json(), [{ fields: ['password'] }, { fields: ['email'] }])
    })

    t.test('a token alone is not enough for either', async (t) => {
      const person = await api.person(admin, 'viewer')
      const email = `stolen.${tag}@example.com`
      for (const field of [{ email }, { password: 'the next password' }, { email: person.email }]) {
        const answer = await person.send('PATCH', '/users/me', field)
        const [name] = Object.keys(field)
        t.match(answer.json(), {
          code: 'validation_failed',
          errors: [
            { in: 'body', pointer: '/current_password', detail: `must be sent with ${name}` }
          ]
        })
      }
      const current_password = person.password
      const idle = await person.send('PATCH', '/users/me', { current_password })
      t.match([idle.statusCode, idle.json().code], [400, 'validation_failed'])
      t.equal(await login(person.email, person.password), 200)
    })

    t.test('a wrong one changes nothing', async (t) => {
      const person = await api.person(admin, 'viewer')
      const other = await api.send('POST', '/auth/login', {
        email: person.email,
        password: person.password
      })
      const change = {
        name: 'Eve',
        email: `stolen.${tag}@example.com`,
        password: 'the next password',
        current_password: 'a wrong password'
      }
      const { email, password, current_password } = change
      for (const body of [
        change,
        { email, current_password },
        { password, current_password },
        { name: 'Eve', current_password }
      ]) {
        const answer = await person.send('PATCH', '/users/me', body)
        t.match([answer.statusCode, answer.json().code], [422, 'wrong_password'])
      }
      t.match((await api.as(other.json().token)('GET', '/users/me')).json(), {
        email: person.email,
        name: 'viewer'
      })
      t.equal(await login(person.email, person.password), 200)
    })

    t.test('admins change their own in no other way, nor do their keys', async (t) => {
      const person = await api.person(admin, 'admin')
      const { key } = (await person.send('POST', '/api-keys', { name: 'K', role: 'admin' })).json()
      const email = `stolen.${tag}@example.com`
      for (const send of [person.send, api.as(key)])
        for (const id of [person.id, person.id.toUpperCase()]) {
          for (const body of [{ email }, { name: 'Eve', password: 'the next password' }]) {
            const answer = await send('PATCH', `/users/${id}`, body)
            t.match([answer.statusCode, answer.json().code], [403, 'forbidden'])
            t.match(answer.json().detail, 'PATCH /api/users/me')
          }
          const renamed = await send('PATCH', `/users/${id}`, { name: 'Renamed', role: 'admin' })
          t.match(renamed.json(), { name: 'Renamed', email: person.email })
        }
      t.equal(await login(person.email, person.password), 200)
      const others = await api.as(key)('PATCH', `/users/${admin.id}`, { name: 'Ada' })
      t.equal(others.statusCode, 200)
    })

    t.test('a change of role, and a removal, take effect at once in this process', async (t) => {
      const editor = await api.person(admin, 'editor')
      t.equal((await editor.send('POST', '/flows', { name: 'F' })).statusCode, 201)
      await send('PATCH', `/users/${editor.id}`, { role: 'viewer' })
      t.equal((await editor.send('POST', '/flows', { name: 'F' })).statusCode, 403)
      t.equal((await send('DELETE', `/users/${editor.id}`)).statusCode, 204)
      t.equal((await editor.send('GET', '/flows')).statusCode, 401)
      const { refreshToken: refresh_token } = editor
      t.equal((await api.send('POST', '/auth/refresh', { refresh_token })).statusCode, 401)
    })

    t.test('a password is the same in each form that looks the same', async (t) => {
      const [composed, decomposed] = ['Zwölf Käfer', 'Zwölf Käfer'.normalize('NFD')]
      const email = `forms.${tag}@example.com`
      const made = await send('POST', '/users', { ...body, email, password: decomposed })
      t.equal(await login(email, composed), 200)
      t.equal(await login(email, decomposed), 200)
      await send('PATCH', `/users/${made.json().id}`, { password: 'Käfer, dreizehn' })
      const { token } = (
        await api.send('POST', '/auth/login', { email, password: 'Käfer, dreizehn' })
      ).json()
      const current_password = 'Käfer, dreizehn'.normalize('NFD')
      const change = { password: composed, current_password }
      t.equal((await api.as(token)('PATCH', '/users/me', change)).statusCode, 200)
      t.equal(await login(email, decomposed), 200)
    })

    t.test('a version that is gone is told before anything else of a removal', async (t) => {
      const headers = { 'if-match': '"1"' }
      const alone = await api.register()
      t.equal(
        (await alone.send('DELETE', `/users/${alone.id}`, undefined, headers)).statusCode,
        412
      )
    })

    t.test('the last admin stays', async (t) => {
      const only = await api.register()
      for (const answer of [
        await only.send('DELETE', `/users/${only.id}`),
        await only.send('PATCH', `/users/${only.id}`, { role: 'viewer' })
      ])
        t.match([answer.statusCode, answer.json().code], [409, 'last_admin'])
    })

    t.test('two admins who remove each other at once leave one', async (t) => {
      const first = await api.register()
      const second = await api.person(first, 'admin')
      const answers = await Promise.all([
        first.send('DELETE', `/users/${second.id}`),
        second.send('DELETE', `/users/${first.id}`)
      ])
      const [won, lost] = answers.map(({ statusCode }) => statusCode).sort()
      t.equal(won, 204)
      // 401 for the one that was removed before it was looked at.
      t.ok(lost === 409 || lost === 401)
    })
  })

t.test('who has an account in another tenant is not found out by trying', async (t) => {
  const api = await testApi(t)
  const [admin, stranger] = [await api.register(), await api.register()]
  const [one, two] = [await api.person(admin, 'editor'), await api.person(admin, 'viewer')]
  const give = (id: string, email: string) => admin.send('PATCH', `/users/${id}`, { email })
  // What is free does not count, however many come.
  for (let i = 0; i < 70; i++)
    t.equal((await give(one.id, `${i}.${api.tag}@example.com`)).statusCode, 200)
  const answers = await Promise.all(
    Array.from({ length: 100 }, (_, i) => give(i % 2 ? one.id : two.id, stranger.email))
  )
  const taken = answers.filter(({ statusCode }) => statusCode === 409)
  const refused = answers.filter(({ statusCode }) => statusCode === 429)
  t.strictSame([taken.length, refused.length], [60, 40])
  t.match(refused[0]?.json(), { code: 'rate_limited', detail: /^Too many emails/ })
  t.match(refused[0]?.headers['retry-after'], /^\d+$/)
  const body = { name: 'N', email: `n.${api.tag}@example.com`, password: 'long enough' }
  t.equal((await admin.send('POST', '/users', body)).statusCode, 429, 'free ones neither')
  t.equal((await give(one.id, stranger.email)).statusCode, 429)
  t.equal((await admin.send('PATCH', `/users/${one.id}`, { name: 'Other' })).statusCode, 200)
  t.equal((await stranger.send('POST', '/users', body)).statusCode, 201, 'nor do others wait')
})

t.test('users who try their own leave the emails of their admins alone', async (t) => {
  const api = await testApi(t)
  const [admin, stranger] = [await api.register(), await api.register()]
  const people = [await api.person(admin, 'viewer'), await api.person(admin, 'editor')]
  const statuses: number[] = []
  for (let i = 0; i < 31; i++)
    for (const { send, password } of people) {
      const change = { email: stranger.email, current_password: password }
      statuses.push((await send('PATCH', '/users/me', change)).statusCode)
    }
  t.strictSame(statuses, [...Array(60).fill(409), 429, 429], 'all of a tenant together')
  const body = { name: 'N', email: `n.${api.tag}@example.com`, password: 'long enough' }
  t.equal((await admin.send('POST', '/users', body)).statusCode, 201)
})

t.test('the window of taken emails ends', async (t) => {
  let now = 0
  const { guard } = createEmailLimit(() => now)
  const give = () =>
    guard('t', async () => {
      throw new AccountError('email_taken', 'Taken.')
    })
  for (let i = 0; i < 60; i++) await t.rejects(give(), { code: 'email_taken' })
  await t.rejects(give(), { code: 'rate_limited', extra: { headers: { 'retry-after': '60' } } })
  now = 59_001
  await t.rejects(give(), { code: 'rate_limited', extra: { headers: { 'retry-after': '1' } } })
  now = 60_000
  await t.rejects(give(), { code: 'email_taken' })
})

t.test(
  'a password that was set in another form, before there was one, is taken as it is',
  async (t) => {
    const api = await testApi(t)
    const { id, email } = await api.register()
    const from = { resource: users, tenant: ACROSS_TENANTS } as const
    const user = await api.storage.get(from, id)
    const password = 'Zwölf Käfer'.normalize('NFD')
    const set = { password_hash: await cheapHasher.hash(password) }
    const tenant = user?.tenant_id as TenantId
    await api.storage.commit({ tenant, changes: [{ op: 'update', resource: users, key: id, set }] })
    const login = await api.send('POST', '/auth/login', { email, password })
    t.equal(login.statusCode, 200)
    const change = { password: 'another password', current_password: password }
    const send = api.as(login.json().token)
    t.equal((await send('PATCH', '/users/me', change)).statusCode, 200)
  }
)

t.test('a slow change of a password does not undo what was decided meanwhile', async (t) => {
  let hashing = () => {}
  let release = () => {}
  const hasher = {
    ...cheapHasher,
    async hash(password: string) {
      if (password === 'a slow password') {
        const released = new Promise<void>((resolve) => {
          release = resolve
        })
        hashing()
        await released
      }
      return cheapHasher.hash(password)
    }
  }
  const api = await testApi(t, { hasher })
  const admin = await api.register()
  const viewer = await api.person(admin, 'viewer')
  const begun = new Promise<void>((resolve) => {
    hashing = resolve
  })
  const slow = admin.send('PATCH', `/users/${viewer.id}`, {
    role: 'editor',
    password: 'a slow password'
  })
  await begun
  t.equal((await admin.send('PATCH', `/users/${viewer.id}`, { role: 'admin' })).statusCode, 200)
  t.equal((await admin.send('PATCH', `/users/${admin.id}`, { role: 'viewer' })).statusCode, 200)
  hashing = () => release()
  release()
  t.match((await slow).json(), { code: 'last_admin' })
})

t.test('an address that the sign-in service refuses is told as that', async (t) => {
  const storage = await memory.open(t)
  const local = await openLocalIdentity({ storage, secret: randomUUID(), hasher: cheapHasher })
  const assertAccepted = ({ email = '' }) => {
    if (email.endsWith('.invalid')) throw new AccountError('email_refused', 'Words of theirs')
  }
  const identity: typeof local = {
    ...local,
    createAccount: async (account) => {
      assertAccepted(account)
      return local.createAccount(account)
    },
    updateAccount: async (user, change) => {
      assertAccepted(change)
      return local.updateAccount(user, change)
    }
  }
  const api = await testApi(t, { storage, identity })
  const { send, password } = await api.register()
  const email = 'bob@example.invalid'
  for (const answer of [
    await send('POST', '/users', { name: 'Bob', email, password }),
    await send('PATCH', '/users/me', { email, current_password: password })
  ]) {
    const { code, detail, errors } = answer.json()
    t.strictSame([answer.statusCode, code], [400, 'validation_failed'])
    const why = 'is not accepted by the sign-in service (Words of theirs): send another'
    t.strictSame(errors, [{ in: 'body', pointer: '/email', detail: why }])
    t.equal(detail, `body /email: ${why}.`)
  }
})
