import t from 'tap'
import { type Send, testApi } from '../support/api.js'
import { testStorages } from '../support/storages.js'

/** Follows the Link headers from an address to the last page. */
async function walk(send: Send, url: string): Promise<string[]> {
  const ids: string[] = []
  for (let next: string | undefined = url; next; ) {
    const page = await send('GET', next)
    ids.push(...page.json().map(({ id }: { id: string }) => id))
    next = /<\/api(.+)>; rel="next"/.exec(String(page.headers.link))?.[1]
  }
  return ids
}

for (const on of testStorages)
  t.test(`lists on ${on.kind}`, { skip: on.skip }, async (t) => {
    const { send } = await (await testApi(t, { on })).register()
    const ids = Array.from({ length: 7 }, (_, i) => `f${i}`)
    for (const [i, id] of ids.entries())
      await send('PUT', `/flows/${id}`, { name: id, status: i % 2 ? 'active' : 'draft' })

    t.test('pages follow each other, newest first or oldest first', async (t) => {
      t.strictSame(await walk(send, '/flows?limit=3'), [...ids].reverse())
      t.strictSame(await walk(send, '/flows?limit=3&order=asc'), ids)
      t.strictSame(await walk(send, '/flows?limit=7'), [...ids].reverse(), 'no empty last page')
      const drafts = await walk(send, '/flows?limit=2&status=draft&order=asc')
      t.strictSame(drafts, ['f0', 'f2', 'f4', 'f6'])
    })

    t.test('a page of long rows is shorter than its limit, and names the next one', async (t) => {
      const long = ['t0', 't1', 't2', 't3', 't4', 't5']
      const body = { name: 'Long', description: 'x'.repeat(1_000_000) }
      for (const id of long)
        t.equal((await send('PUT', `/templates/${id}`, body)).statusCode, 201, id)
      t.equal((await send('GET', '/templates?limit=250')).json().length, 5)
      t.strictSame(await walk(send, '/templates?limit=250&order=asc'), long)
    })

    t.test('count=exact tells how many there are, whatever the page', async (t) => {
      const page = await send('GET', '/flows?limit=2&status=active&count=exact')
      t.equal(page.headers['x-total-count'], '3')
      t.equal((await send('GET', '/flows?limit=2')).headers['x-total-count'], undefined)
    })

    t.test('a cursor belongs to one list', async (t) => {
      const { headers } = await send('GET', '/flows?limit=2')
      const cursor = /cursor=([^>&]+)/.exec(String(headers.link))?.[1]
      t.equal((await send('GET', `/flows?limit=5&cursor=${cursor}`)).statusCode, 200)
      for (const url of [
        `/flows?order=asc&cursor=${cursor}`,
        `/flows?status=draft&cursor=${cursor}`,
        `/templates?cursor=${cursor}`,
        `/flows?cursor=${cursor}A`,
        '/flows?cursor=x'
      ]) {
        const answer = await send('GET', url)
        t.match([answer.statusCode, answer.json().code], [400, 'bad_cursor'], url)
      }
    })

    t.test('connections are filtered by provider, category and status', async (t) => {
      for (const [id, provider, category, status] of [
        ['a', 'slack', 'messaging', 'connected'],
        ['b', 'slack', 'files', 'broken'],
        ['c', 'smtp', 'messaging', 'connected']
      ])
        await send('PUT', `/connections/${id}`, { provider, category, status, account: 'x' })
      t.strictSame(await walk(send, '/connections?provider=slack'), ['b', 'a'])
      t.strictSame(await walk(send, '/connections?category=messaging&provider=smtp'), ['c'])
      t.strictSame(await walk(send, '/connections?status=connected&order=asc'), ['a', 'c'])
      t.strictSame(await walk(send, '/connections?provider=nobody'), [])
    })
  })
