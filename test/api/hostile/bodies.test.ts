import t from 'tap'
import { testApi } from '../../support/api.js'
import { testStorages } from '../../support/storages.js'

const json = { 'content-type': 'application/json' }

/**
 * RFC 8259 leaves open what a name means that an object has twice. Here it is the last value, as
 * JSON.parse has it: it alone is checked, stored and digested, so no two parts of the server can
 * differ about it.
 */
for (const on of testStorages)
  t.test(
    `of a name that is given twice the last value counts on ${on.kind}`,
    { skip: on.skip },
    async (t) => {
      const api = await testApi(t, { on })
      const admin = await api.register()
      const editor = await api.person(admin, 'editor')
      const put = (text: string, headers = {}) =>
        editor.send('PUT', '/flows/f', text, { ...json, ...headers })

      const twice = await put('{"name":"first","name":"last"}')
      t.match([twice.statusCode, twice.json().name], [201, 'last'])
      t.equal((await editor.send('GET', '/flows/f')).json().name, 'last')
      t.equal((await put('{"name":5,"name":"good"}')).statusCode, 200, 'the first is not looked at')
      t.match((await put('{"name":"good","name":5}')).json(), { code: 'validation_failed' })
      t.match((await put('{"name":"good","n\\u0061me":5}')).json(), { code: 'validation_failed' })
      const inner = '{"name":"F","definition":{"a":{"b":1,"b":{"c":1,"c":2}},"a":{"b":{"c":2}}}}'
      t.strictSame((await put(inner)).json().definition, { a: { b: { c: 2 } } })
      t.equal((await editor.send('GET', '/flows/f')).json().name, 'F')

      const user = (role: string) =>
        `{"email":"twice.${api.tag}@example.com","name":"T","password":"a good password",${role}}`
      const forbidden = await editor.send(
        'POST',
        '/users',
        user('"role":"viewer","role":"admin"'),
        json
      )
      t.equal(forbidden.statusCode, 403, 'whatever stands there')
      const made = await admin.send('POST', '/users', user('"role":"admin","role":"viewer"'), json)
      t.equal(made.json().role, 'viewer')
      const self = await editor.send(
        'PATCH',
        '/users/me',
        '{"name":"E","role":"admin","name":"F"}',
        json
      )
      t.match(self.json(), { code: 'validation_failed' })

      const create = (text: string) =>
        editor.send('POST', '/flows', text, { ...json, 'idempotency-key': 'twice' })
      const first = await create('{"name":"x","name":"once"}')
      t.equal((await create('{"name":"once"}')).json().id, first.json().id, 'it is one request')
      t.equal((await create('{"name":"once","name":"x"}')).statusCode, 422)
    }
  )

t.test('a filter that is given twice is refused', async (t) => {
  const { send } = await (await testApi(t)).register()
  for (const query of [
    'status=draft&status=active',
    'status=draft&st%61tus=draft',
    'limit=1&limit=1'
  ])
    t.match((await send('GET', `/flows?${query}`)).json(), { code: 'validation_failed' }, query)
})

t.test('of thousands of mistakes in a body the first are told', async (t) => {
  const { send } = await (await testApi(t)).register()
  const unknown = Object.fromEntries(Array.from({ length: 5000 }, (_, n) => [`field_${n}`, n]))
  const answer = await send('POST', '/flows', { name: 'F', ...unknown })
  t.match(answer.json(), { code: 'validation_failed', errors: Array(20).fill({ in: 'body' }) })
  t.equal(answer.json().errors.length, 20)
})
