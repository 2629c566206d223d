import t from 'tap'
import { testApi } from '../support/api.js'
import { testStorages } from '../support/storages.js'

for (const on of testStorages)
  t.test(`flows on ${on.kind}`, { skip: on.skip }, async (t) => {
    const api = await testApi(t, { on })
    const { send } = await api.register()

    t.test('a flow is created, read, changed and deleted', async (t) => {
      const created = await send('POST', '/flows', {
        id: 'f',
        name: 'F',
        definition: { a: [null] }
      })
      t.equal(created.statusCode, 201)
      t.equal(created.headers.location, '/api/flows/f')
      t.match(created.json(), { id: 'f', name: 'F', status: 'draft', definition: { a: [null] } })
      t.equal(created.json().tenant_id, undefined)

      const read = await send('GET', '/flows/f')
      t.strictSame(read.json(), created.json())
      t.equal(read.headers.etag, created.headers.etag)

      const changed = await send('PATCH', '/flows/f', { name: 'G' })
      t.match(changed.json(), { name: 'G', definition: { a: [null] } })
      t.not(changed.headers.etag, created.headers.etag)

      t.equal((await send('DELETE', '/flows/f')).statusCode, 204)
      t.equal((await send('GET', '/flows/f')).statusCode, 404)
    })

    t.test('PUT creates, then replaces, and leaves nothing of the old flow', async (t) => {
      // JSON has a zero with a sign, which no answer shows.
      const body = '{"name":"P","definition":{"steps":[-0]}}'
      const json = { 'content-type': 'application/json' }
      const created = await send('PUT', '/flows/p', body, json)
      t.equal(created.statusCode, 201)
      const again = await send('PUT', '/flows/p', body, json)
      t.equal(again.statusCode, 200)
      t.equal(again.headers.etag, created.headers.etag, 'the same again changes nothing')
      const replaced = await send('PUT', '/flows/p', { name: 'Q' })
      t.equal(replaced.json().definition, null)
    })

    t.test('If-Match guards against a lost update', async (t) => {
      const { headers } = await send('PUT', '/flows/m', { name: 'M' })
      const first = headers.etag as string
      await send('PATCH', '/flows/m', { name: 'N' }, { 'if-match': first })
      for (const [method, body] of [
        ['PATCH', { name: 'O' }],
        ['PUT', { name: 'O' }],
        ['DELETE']
      ] as const) {
        const late = await send(method, '/flows/m', body, { 'if-match': first })
        t.equal(late.statusCode, 412, method)
        t.equal(late.json().code, 'precondition_failed')
      }
      t.equal((await send('GET', '/flows/m')).json().name, 'N')
      await send('DELETE', '/flows/m')
      await send('PUT', '/flows/m', { name: 'M' })
      const recreated = await send('DELETE', '/flows/m', undefined, { 'if-match': first })
      t.equal(recreated.statusCode, 412, 'the ETag of a deleted flow fits no other')
      const absent = await send('PUT', '/flows/none', { name: 'O' }, { 'if-match': first })
      t.match(absent.json(), { code: 'precondition_failed', detail: /^There is no such flow/ })
    })

    t.test('If-None-Match and the version that is known spare the body', async (t) => {
      const get = (tags: string, url = '/flows/k') =>
        send('GET', url, undefined, { 'if-none-match': tags })
      const { headers } = await send('PUT', '/flows/k', { name: 'K' })
      const known = headers.etag as string
      for (const tags of [known, `W/${known}`, `"0", ${known}`, '*']) {
        const { statusCode, body, headers } = await get(tags)
        t.strictSame([statusCode, body, headers.etag], [304, '', known], tags)
        const head = await send('HEAD', '/flows/k', undefined, { 'if-none-match': tags })
        t.strictSame([head.statusCode, head.headers['content-length']], [304, undefined])
      }
      t.equal((await get('"0"')).json().name, 'K')
      t.equal((await get(known.replaceAll('"', ''))).statusCode, 200, 'a tag has quotes')
      await send('PATCH', '/flows/k', { name: 'L' })
      t.equal((await get(known)).json().name, 'L')
      t.equal((await get('*', '/flows/none')).statusCode, 404)
      await send('POST', '/secrets', { name: 'S', value: 'v' })
      t.equal((await get('*', '/secrets/S')).statusCode, 200, 'a secret expires without a change')
    })

    t.test('If-None-Match: * creates only', async (t) => {
      const once = { 'if-none-match': '*' }
      const put = (name: string, headers: Record<string, string> = once) =>
        send('PUT', '/flows/once', { name }, headers)
      const outcomes = await Promise.all([put('A'), put('B'), put('C')])
      const [created, ...others] = outcomes.filter(({ statusCode }) => statusCode === 201)
      t.ok(created)
      t.strictSame(others, [], 'of many at once, one does')
      const late = await put('D')
      t.match(late.json(), { code: 'precondition_failed', detail: 'There is already such a flow.' })
      const either = await put('E', { ...once, 'if-match': created?.headers.etag as string })
      t.equal(either.statusCode, 412, 'whatever If-Match says')
      t.strictSame((await send('GET', '/flows/once')).json(), created?.json())
      await send('DELETE', '/flows/once')
      t.equal((await put('F')).statusCode, 201)
    })

    t.test('deploying makes a flow active, until it is replaced without a status', async (t) => {
      await send('PUT', '/flows/d', { name: 'D' })
      t.equal((await send('POST', '/flows/d/deploy')).json().status, 'active')
      const { json } = await send('GET', '/audit?resource_id=d&action=flow.deploy')
      t.match(json(), [{ action: 'flow.deploy', fields: ['status'] }])
      t.equal((await send('PUT', '/flows/d', { name: 'D' })).json().status, 'draft')
    })

    t.test('a template becomes a draft', async (t) => {
      await send('PUT', '/templates/t', { name: 'T', definition: { x: 1 } })
      const flow = await send('POST', '/templates/t/flows', { id: 'from-t' })
      t.equal(flow.statusCode, 201)
      t.match(flow.json(), { name: 'T', status: 'draft', definition: { x: 1 }, template_id: 't' })
      const kept = await send('DELETE', '/templates/t')
      t.equal(kept.statusCode, 409)
      t.equal(kept.json().code, 'in_use')
    })

    t.test('a flow cannot refer to a template that does not exist', async (t) => {
      const refused = await send('POST', '/flows', { name: 'R', template_id: 'nope' })
      t.equal(refused.statusCode, 409)
      t.match(refused.json(), { code: 'reference_not_found', detail: /template_id/ })
    })
  })
