import t, { type Test } from 'tap'
import { testApi } from '../support/api.js'
import { testStorages } from '../support/storages.js'
import { overtaken, troubledStorage } from '../support/troubled-storage.js'

for (const on of testStorages)
  t.test(`changes that overlap on ${on.kind}`, { skip: on.skip }, async (t) => {
    const { api, overlapping } = await testOverlaps(t)
    const admin = await api.register()

    for (const method of ['PUT', 'PATCH'] as const)
      t.test(`of two ${method}s the last one wins with all that it says`, async (t) => {
        const flow = `/flows/flow_${method}`
        await admin.send('PUT', flow, { name: 'a', definition: { v: 1 } })
        const last = await overlapping(
          () => admin.send(method, flow, { name: 'b', definition: { v: 1 } }),
          () => admin.send(method, flow, { name: 'a', definition: { v: 2 } })
        )
        t.equal(last.statusCode, 200)
        t.match(last.json(), { name: 'a', definition: { v: 2 } })
        t.strictSame((await admin.send('GET', flow)).json(), last.json())
      })

    t.test('the audit entry of the last one has all that it changed', async (t) => {
      await admin.send('PUT', '/flows/flow_both', { name: 'a', definition: { v: 1 } })
      await overlapping(
        () => admin.send('PATCH', '/flows/flow_both', { name: 'b', status: 'active' }),
        () => admin.send('PUT', '/flows/flow_both', { name: 'a', definition: { v: 2 } })
      )
      const [entry] = (await admin.send('GET', '/audit?resource_id=flow_both')).json()
      t.strictSame(entry.fields, ['definition', 'name', 'status'])
    })

    t.test('who is overtaken time and again is stored all the same', async (t) => {
      const url = '/flows/flow_busy'
      await admin.send('PUT', url, { name: 'a' })
      const names = Array.from({ length: 40 }, (_, n) => `name ${n}`)
      const answers = await Promise.all(names.map((name) => admin.send('PATCH', url, { name })))
      for (const [n, answer] of answers.entries()) t.match(answer.json(), { name: names[n] })
      const entries = (await admin.send('GET', '/audit?resource_id=flow_busy&limit=50')).json()
      t.equal(entries.length, 41)
    })

    t.test('a PATCH leaves alone what it does not say', async (t) => {
      await admin.send('PUT', '/flows/flow_other', { name: 'a', definition: { v: 1 } })
      const last = await overlapping(
        () => admin.send('PATCH', '/flows/flow_other', { name: 'b' }),
        () => admin.send('PATCH', '/flows/flow_other', { definition: { v: 2 } })
      )
      t.match(last.json(), { name: 'b', definition: { v: 2 } })
    })

    t.test('the audit names what changed, and not all that was given', async (t) => {
      await admin.send('PUT', '/flows/flow_audited', { name: 'a', definition: { v: 1 } })
      await admin.send('PUT', '/flows/flow_audited', { name: 'a', definition: { v: 2 } })
      const entries = await admin.send('GET', '/audit?resource_id=flow_audited')
      t.match(entries.json(), [{ action: 'flow.update', fields: ['definition'] }, {}])
    })

    t.test("an admin's new password ends the session that sets one at the same time", async (t) => {
      const person = await api.person(admin, 'viewer')
      await overlapping(
        () =>
          person.send('PATCH', '/users/me', {
            password: 'a password of their own',
            current_password: person.password
          }),
        () => admin.send('PATCH', `/users/${person.id}`, { password: 'one that the admin gave' })
      )
      t.equal((await person.send('GET', '/users/me')).statusCode, 401)
    })

    t.test("a password that is no more the user's by then changes nothing", async (t) => {
      const person = await api.person(admin, 'viewer')
      const password = 'one that the admin gave'
      const late = await overlapping(
        () => admin.send('PATCH', `/users/${person.id}`, { password }),
        () =>
          person.send('PATCH', '/users/me', {
            password: 'a password of their own',
            current_password: person.password
          })
      )
      // There the account is changed before the row, and nobody knows to change a password back.
      const code = on.kind === 'supabase' ? 'outcome_unknown' : 'wrong_password'
      t.equal(late.json().code, code)
      t.equal((await person.send('GET', '/users/me')).statusCode, 401)
      const { email } = person
      t.equal((await api.send('POST', '/auth/login', { email, password })).statusCode, 200)
    })

    t.test('another change at the same time does not get in the way of a password', async (t) => {
      const person = await api.person(admin, 'viewer')
      const changed = await overlapping(
        () => admin.send('PATCH', `/users/${person.id}`, { name: 'Renamed' }),
        () =>
          person.send('PATCH', '/users/me', {
            password: 'a password of their own',
            current_password: person.password
          })
      )
      if (on.kind === 'supabase') t.equal(changed.json().code, 'outcome_unknown', 'as above')
      else t.match(changed.json(), { id: person.id, name: 'Renamed' })
    })

    t.test('a PUT makes what is gone by then, and replaces what is there by then', async (t) => {
      const url = '/flows/flow_put'
      const put = (headers = {}) => admin.send('PUT', url, { name: 'a' }, headers)
      const remove = () => admin.send('DELETE', url)
      t.equal((await overlapping(put, put)).statusCode, 200)
      const made = await overlapping(remove, () => admin.send('PUT', url, { name: 'b' }))
      t.match([made.statusCode, made.json().name], [201, 'b'])
      await remove()
      const only = await overlapping(put, () => put({ 'if-none-match': '*' }))
      t.equal(only.json().code, 'precondition_failed')
    })

    t.test('of two new addresses the last one signs in', async (t) => {
      const { id, password } = await api.person(admin, 'viewer')
      const move = (name: string) =>
        admin.send('PATCH', `/users/${id}`, { email: `${name}.${api.tag}@example.com` })
      const last = await overlapping(
        () => move('first'),
        () => move('last')
      )
      const { email } = last.json()
      t.equal(email, `last.${api.tag}@example.com`)
      t.equal((await api.send('POST', '/auth/login', { email, password })).statusCode, 200)
    })

    t.test('who became the last admin meanwhile is not removed', async (t) => {
      const first = await api.register()
      const second = await api.person(first, 'viewer')
      const removed = await overlapping(
        async () => {
          await first.send('PATCH', `/users/${second.id}`, { role: 'admin' })
          await first.send('PATCH', `/users/${first.id}`, { role: 'viewer' })
        },
        () => first.send('DELETE', `/users/${second.id}`)
      )
      t.equal(removed.json().code, 'last_admin')
      t.match((await second.send('GET', '/users/me')).json(), { role: 'admin' })
    })

    /** The API, and a way to have one request come between what another reads and what it commits. */
    async function testOverlaps(t: Test) {
      const actual = await on.open(t)
      const { storage, trouble } = troubledStorage(actual)
      const overlapping = <T>(between: () => Promise<unknown>, request: () => Promise<T>) =>
        trouble(overtaken(actual, between), request)
      return { api: await testApi(t, { on, storage }), overlapping }
    }
  })
