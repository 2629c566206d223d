import t from 'tap'
import { testApi } from '../support/api.js'
import { testStorages } from '../support/storages.js'

for (const on of testStorages)
  t.test(`audit on ${on.kind}`, { skip: on.skip }, async (t) => {
    const api = await testApi(t, { on })
    const admin = await api.register()
    const { send } = admin

    t.test('each change leaves one entry that names fields and no values', async (t) => {
      const created = await send('POST', '/flows', { id: 'a', name: 'Hidden words' })
      await send('PATCH', '/flows/a', { name: 'Other words', status: 'draft' })
      await send('DELETE', '/flows/a')
      const answer = await send('GET', '/audit?resource=flows&resource_id=a')
      t.match(answer.json(), [
        { action: 'flow.delete', fields: [] },
        { action: 'flow.update', fields: ['name'] },
        {
          action: 'flow.create',
          fields: ['id', 'name', 'status'],
          actor: admin.id,
          resource: 'flows',
          request_id: created.headers['x-request-id']
        }
      ])
      t.notMatch(answer.body, /words/)
    })

    t.test('what changes nothing, or fails, leaves none', async (t) => {
      await send('PUT', '/flows/b', { name: 'B' })
      await send('PUT', '/flows/b', { name: 'B' })
      await send('PATCH', '/flows/b', { name: 'B' })
      await send('POST', '/flows', { id: 'b', name: 'B' })
      await send('PATCH', '/flows/b', { template_id: 'none' })
      t.equal((await send('GET', '/audit?resource_id=b')).json().length, 1)
    })

    t.test('of many writers with one ETag one wins, and it alone is in the log', async (t) => {
      const { headers } = await send('PUT', '/flows/c', { name: 'C' })
      const match = { 'if-match': headers.etag as string }
      const answers = await Promise.all(
        Array.from({ length: 20 }, (_, i) => send('PATCH', '/flows/c', { name: `C${i}` }, match))
      )
      t.equal(answers.filter(({ statusCode }) => statusCode === 200).length, 1)
      t.equal(answers.filter(({ statusCode }) => statusCode === 412).length, 19)
      const updates = await send('GET', '/audit?resource_id=c&action=flow.update')
      t.equal(updates.json().length, 1)
    })

    t.test('the log can be filtered by actor and period', async (t) => {
      const editor = await api.person(admin, 'editor')
      await editor.send('PUT', '/flows/d', { name: 'D' })
      const [entry, ...others] = (await send('GET', `/audit?actor=${editor.id}`)).json()
      t.strictSame(others, [])
      t.match(entry, { action: 'flow.create', resource_id: 'd' })
      const since = await send('GET', `/audit?resource_id=d&since=${entry.at}`)
      t.equal(since.json().length, 1, 'since is inclusive')
      const until = await send('GET', `/audit?resource_id=d&until=${entry.at}`)
      t.equal(until.json().length, 0, 'until is exclusive')
    })

    t.test('nothing but the system writes to it', async (t) => {
      const [entry] = (await send('GET', '/audit?limit=1')).json()
      for (const method of ['POST', 'PUT', 'PATCH', 'DELETE'] as const)
        for (const url of ['/audit', `/audit/${entry.id}`])
          t.equal((await send(method, url, {})).json().code, 'route_not_found', `${method} ${url}`)
    })
  })
