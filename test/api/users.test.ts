import t from 'tap'
import { cheapHasher, testApi } from '../support/api.js'
import { testStorages } from '../support/storages.js'

for (const on of testStorages)
  t.test(`users on ${on.kind}`, { skip: on.skip }, async (t) => {
    const api = await testApi(t, { on })
    const { tag } = api
    const tenant_name = `Acme ${tag}`
    const admin = await api.register(tenant_name)
    const { send } = admin
    const body = { name: 'Bob', email: `Bob.${tag}@Example.com`, password: 'first password' }

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
      const login = (password: string) =>
        api.send('POST', '/auth/login', { email: body.email, password })
      t.equal((await login('first password')).statusCode, 401)
      t.equal((await login('second password')).statusCode, 200)
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
