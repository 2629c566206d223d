import { createHash, randomUUID } from 'node:crypto'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { crc32 } from 'node:zlib'
import t from 'tap'
import { openLocalIdentity } from '../../adapters/identity/local.js'
import { StorageError } from '../../adapters/storage/errors.js'
import { ACROSS_TENANTS, type Storage, type TenantId } from '../../adapters/storage/port.js'
import { apiKeys } from '../../schemas/api-keys.js'
import { isApiKeyText, newApiKeyText } from '../../src/api-key-text.js'
import { createApiKeys } from '../../src/api-keys.js'
import { createPrincipals } from '../../src/principals.js'
import { cheapHasher, type Send, testApi } from '../support/api.js'
import { passTime } from '../support/pass-time.js'
import { memory, testStorages } from '../support/storages.js'
import {
  broken,
  brokenCommit,
  overtaken,
  troubledStorage,
  unanswered
} from '../support/troubled-storage.js'

/** What docs/api-keys.md gives to secret scanners. */
const form = /\bwfa_[0-9A-Za-z]{38}\b/

async function statusOf(send: Send, url = '/flows'): Promise<number> {
  return (await send('GET', url)).statusCode
}

/** The row as it is stored, hidden columns included. */
async function storedKey(storage: Storage, id: string) {
  const row = await storage.get({ resource: apiKeys, tenant: ACROSS_TENANTS }, id)
  if (!row) throw new Error(`no key ${id}`)
  return row
}

/** Changes a key as another process does, behind the back of every cache. */
async function changeKey(storage: Storage, id: string, set: Record<string, string | null>) {
  const { tenant_id } = await storedKey(storage, id)
  const change = { op: 'update', resource: apiKeys, key: id, set } as const
  await storage.commit({ tenant: tenant_id as TenantId, changes: [change] })
}

/** Waits, turn by turn, for what nobody is told about. */
async function eventually<T>(look: () => Promise<T | null>): Promise<T> {
  for (;;) {
    const seen = await look()
    if (seen !== null) return seen
    await nextTurn()
  }
}

for (const on of testStorages)
  t.test(`API keys on ${on.kind}`, { skip: on.skip }, async (t) => {
    const sound = await on.open(t)
    const troubled = troubledStorage(sound)
    const { storage } = troubled
    const api = await testApi(t, { on, storage })
    const admin = await api.register()
    const create = async (body: object = {}) => {
      const answer = await admin.send('POST', '/api-keys', { name: 'Import', ...body })
      t.equal(answer.statusCode, 201, answer.body)
      return answer.json()
    }
    /** The API of another process, which remembers nothing. */
    const elsewhere = async () => (await testApi(t, { on, storage })).as

    t.test('a key is shown once, and stored as a hash', async (t) => {
      const { key, ...shown } = await create({ role: 'editor' })
      t.match(key, form)
      t.match(shown, { name: 'Import', role: 'editor', expires_at: null, last_used_at: null })
      t.ok(key.startsWith(shown.prefix))
      const location = `/api-keys/${shown.id}`
      t.strictSame((await admin.send('GET', location)).json(), shown)
      t.strictSame((await admin.send('GET', '/api-keys')).json()[0], shown)
      const row = await storedKey(storage, shown.id)
      t.equal(row.hash, createHash('sha256').update(key).digest('hex'))
      t.notMatch(JSON.stringify(row), key)
      t.equal((await admin.send('GET', `/api-keys?hash=${row.hash}`)).statusCode, 400)
    })

    t.test(
      'it calls the API with its role, in its tenant, and is named in the audit',
      async (t) => {
        await admin.send('PUT', '/flows/f', { name: 'F' })
        const viewer = await create()
        t.equal(viewer.role, 'viewer')
        const read = api.as(viewer.key)
        t.equal((await read('GET', '/flows')).json()[0].id, 'f')
        t.equal((await read('POST', '/flows', { name: 'G' })).statusCode, 403)

        const editor = await create({ role: 'editor' })
        const write = api.as(editor.key)
        const flow = await write('POST', '/flows', { name: 'G' })
        t.equal(flow.statusCode, 201)
        const [entry] = (await admin.send('GET', `/audit?actor=${editor.id}`)).json()
        t.match(entry, { action: 'flow.create', resource_id: flow.json().id })
        for (const url of ['/users', '/api-keys', '/audit'])
          t.equal(await statusOf(write, url), 403)
        t.equal((await write('POST', '/api-keys', { name: 'K' })).statusCode, 403)
        for (const [method, url, body] of [
          ['GET', '/auth/me'],
          ['GET', '/users/me'],
          ['PATCH', '/users/me', { name: 'N' }]
        ] as const)
          t.match((await write(method, url, body)).json(), {
            code: 'not_found',
            detail: 'An API key is not a user: GET /api/api-keys/me.'
          })

        const all = api.as((await create({ role: 'admin' })).key)
        for (const url of ['/users', '/api-keys', '/audit']) t.equal(await statusOf(all, url), 200)
        const stranger = await api.register()
        t.equal((await stranger.send('GET', `/api-keys/${editor.id}`)).statusCode, 404)
        t.equal((await stranger.send('DELETE', `/api-keys/${editor.id}`)).statusCode, 404)
        t.equal(await statusOf(write), 200)
      }
    )

    t.test('it has no more than the role of who made it, and ends with them', async (t) => {
      const maker = await api.person(admin, 'admin')
      const made = await maker.send('POST', '/api-keys', { name: 'K', role: 'admin' })
      const { id, key, owner_id } = made.json()
      t.equal(owner_id, maker.id)
      const inner = await api.as(key)('POST', '/api-keys', { name: 'L', role: 'admin' })
      t.equal(inner.json().owner_id, maker.id, 'also of one that a key made')
      const asKeys = [key, inner.json().key].map((each) => api.as(each))
      const statuses = async (url: string) => Promise.all(asKeys.map((send) => statusOf(send, url)))
      t.strictSame(await statuses('/users'), [200, 200])

      await admin.send('PATCH', `/users/${maker.id}`, { role: 'viewer' })
      t.strictSame(await statuses('/users'), [403, 403])
      t.strictSame(await statuses('/flows'), [200, 200])
      t.equal((await admin.send('DELETE', `/users/${maker.id}`)).statusCode, 204)
      t.strictSame(await statuses('/flows'), [401, 401])
      t.equal(await statusOf((await elsewhere())(key)), 401, 'for all servers')

      const rotated = await admin.send('POST', `/api-keys/${id}/rotate`, { grace_seconds: 0 })
      t.match(rotated.json(), { id, owner_id: admin.id, role: 'admin' })
      t.equal(
        await statusOf(api.as(rotated.json().key), '/users'),
        200,
        'until somebody takes over'
      )
      t.equal(await statusOf(api.as(key)), 401)
    })

    t.test('what it lost with its owner does not come back by rotating it', async (t) => {
      for (const [method, body] of [['PATCH', { role: 'viewer' }], ['DELETE']] as const) {
        const maker = await api.person(admin, 'admin')
        const made = await maker.send('POST', '/api-keys', { name: 'K', role: 'admin' })
        const { id, key } = made.json()
        await admin.send(method, `/users/${maker.id}`, body)
        const rotated = await admin.send('POST', `/api-keys/${id}/rotate`, {})
        t.equal(await statusOf(api.as(rotated.json().key), '/users'), 200)
        t.equal(await statusOf(api.as(key)), 401, method)
      }
    })

    t.test('it sees what it may do and until when, whatever its role', async (t) => {
      for (const role of ['viewer', 'editor', 'admin']) {
        const { key, ...shown } = await create({ role, expires_at: '2099-01-31T00:00:00.000Z' })
        const { statusCode, json } = await api.as(key)('GET', '/api-keys/me')
        t.equal(statusCode, 200)
        const { last_used_at: _, ...seen } = json()
        t.match(shown, { id: seen.id, role, expires_at: seen.expires_at, prefix: seen.prefix })
        t.notOk('hash' in seen || 'key' in seen)
        const other = await create()
        t.equal(
          (await api.as(key)('GET', `/api-keys/${other.id}`)).statusCode,
          role === 'admin' ? 200 : 403
        )
      }
      const { statusCode, json } = await admin.send('GET', '/api-keys/me')
      t.match([statusCode, json().detail], [404, 'You call as a user: GET /api/users/me.'])
    })

    t.test('only its name can be changed', async (t) => {
      const { id } = await create()
      const renamed = await admin.send('PATCH', `/api-keys/${id}`, { name: 'Export' })
      t.equal(renamed.json().name, 'Export')
      for (const body of [{ role: 'admin' }, { expires_at: null }, { hash: 'x' }])
        t.equal((await admin.send('PATCH', `/api-keys/${id}`, body)).statusCode, 400)
    })

    t.test('revoking ends it at once', async (t) => {
      const { id, key } = await create()
      t.equal(await statusOf(api.as(key)), 200)
      t.equal((await admin.send('DELETE', `/api-keys/${id}`)).statusCode, 204)
      t.equal(await statusOf(api.as(key)), 401)
      const actions = (await admin.send('GET', `/audit?resource_id=${id}`)).json()
      t.match(actions, [{ action: 'api_key.delete' }, { action: 'api_key.create' }])
    })

    t.test('so does one that it was rotated to just before', async (t) => {
      const { id } = await create()
      let newer = ''
      const rotate = async () => {
        newer = (await admin.send('POST', `/api-keys/${id}/rotate`, {})).json().key
        t.equal(await statusOf(api.as(newer)), 200)
      }
      const revoke = () => admin.send('DELETE', `/api-keys/${id}`)
      t.equal((await troubled.trouble(overtaken(sound, rotate), revoke)).statusCode, 204)
      t.equal(await statusOf(api.as(newer)), 401)
    })

    t.test('one that may have ended is not remembered as one that goes on', async (t) => {
      for (const [method, path, body] of [
        ['DELETE', ''],
        ['POST', '/rotate', { grace_seconds: 0 }]
      ] as const) {
        const { id, key } = await create()
        t.equal(await statusOf(api.as(key)), 200)
        const lost = await troubled.trouble(unanswered(sound), () =>
          admin.send(method, `/api-keys/${id}${path}`, body)
        )
        t.equal(lost.json().code, 'outcome_unknown')
        t.equal(await statusOf(api.as(key)), 401, method)
      }
    })

    t.test('one whose making was stored, and not answered, is shown all the same', async (t) => {
      const post = () =>
        admin.send('POST', '/api-keys', { name: 'K' }, { 'idempotency-key': 'shown once' })
      const made = await troubled.trouble(unanswered(sound), post)
      t.equal(made.statusCode, 201, made.body)
      const { key, ...shown } = made.json()
      t.strictSame((await admin.send('GET', `/api-keys/${shown.id}`)).json(), shown)
      t.equal(await statusOf(api.as(key)), 200)
      t.match((await post()).json(), {
        code: 'already_created',
        id: shown.id,
        detail: /: rotate the key\.$/
      })
    })

    t.test('a rotated key works for its time of grace', async (t) => {
      const first = await create()
      const url = `/api-keys/${first.id}/rotate`
      t.equal(await statusOf(api.as(first.key)), 200)
      const second = (await admin.send('POST', url, {})).json()
      t.not(second.key, first.key)
      t.ok(second.key.startsWith(second.prefix))
      t.ok(Date.parse(second.previous_expires_at) > Date.now() + 23 * 60 * 60 * 1000, 'a day')
      for (const as of [api.as, await elsewhere()])
        for (const { key } of [first, second]) t.equal(await statusOf(as(key)), 200)

      await changeKey(storage, first.id, { previous_expires_at: new Date().toISOString() })
      const as = await elsewhere()
      t.strictSame([await statusOf(as(first.key)), await statusOf(as(second.key))], [401, 200])

      const third = (await admin.send('POST', url, { grace_seconds: 0 })).json()
      const statuses = []
      for (const { key } of [first, second, third]) statuses.push(await statusOf(api.as(key)))
      t.strictSame(statuses, [401, 401, 200], 'no grace')
      const [entry] = (await admin.send('GET', `/audit?resource_id=${first.id}&limit=1`)).json()
      t.match(entry, { action: 'api_key.rotate', actor: admin.id })
    })

    t.test('of keys rotated twice the oldest ends at once', async (t) => {
      const first = await create()
      const url = `/api-keys/${first.id}/rotate`
      const second = (await admin.send('POST', url, {})).json()
      for (const { key } of [first, second]) t.equal(await statusOf(api.as(key)), 200)
      const third = (await admin.send('POST', url, {})).json()
      const statuses = []
      for (const { key } of [first, second, third]) statuses.push(await statusOf(api.as(key)))
      t.strictSame(statuses, [401, 200, 200])
    })

    t.test('a key ends when it expires, and rotating does not prolong the old one', async (t) => {
      const late = new Date(Date.now() - 1).toISOString()
      const soon = new Date(Date.now() + 3_600_000).toISOString()
      const refused = await admin.send('POST', '/api-keys', { name: 'K', expires_at: late })
      t.match(refused.json(), { status: 400, errors: [{ in: 'body', pointer: '/expires_at' }] })
      const { id, key } = await create({ expires_at: soon })
      t.equal(await statusOf(api.as(key)), 200)
      const body = { expires_at: null, grace_seconds: 86_400 }
      const rotated = (await admin.send('POST', `/api-keys/${id}/rotate`, body)).json()
      t.match(rotated, { expires_at: null, previous_expires_at: soon })

      await changeKey(storage, id, { expires_at: late })
      const answer = await (await elsewhere())(rotated.key)('GET', '/flows')
      t.match([answer.statusCode, answer.json().code], [401, 'unauthenticated'])
      t.equal(answer.headers['www-authenticate'], 'Bearer')
    })

    t.test('the old key ends with its row, which rotating may bring nearer', async (t) => {
      const { id, key } = await create()
      const soon = new Date(Date.now() + 60_000).toISOString()
      const body = { expires_at: soon, grace_seconds: 3600 }
      const rotated = await admin.send('POST', `/api-keys/${id}/rotate`, body)
      t.match(rotated.json(), { expires_at: soon, previous_expires_at: soon })
      t.equal(await statusOf(api.as(key)), 200)
    })

    t.test('a key that has expired is rotated with a new expiry only', async (t) => {
      const late = new Date(Date.now() - 1).toISOString()
      const { id, key } = await create()
      await changeKey(storage, id, { expires_at: late })
      const rotate = (body: object) => admin.send('POST', `/api-keys/${id}/rotate`, body)
      t.match((await rotate({})).json(), {
        status: 400,
        detail: /send a later one/,
        errors: [{ in: 'body', pointer: '/expires_at' }]
      })
      t.match((await rotate({ expires_at: late })).json(), { status: 400, detail: /in the past/ })
      const rotated = await rotate({ expires_at: null })
      t.match(rotated.json(), { expires_at: null, previous_expires_at: late })
      const as = await elsewhere()
      t.strictSame([await statusOf(as(key)), await statusOf(as(rotated.json().key))], [401, 200])
    })

    t.test('its use is written beside the request, and not audited', async (t) => {
      const { id, key } = await create()
      const unwritten = await troubled.trouble(brokenCommit('unavailable'), () =>
        api.as(key)('GET', '/flows')
      )
      t.equal(unwritten.statusCode, 200, 'whether it can be written or not')
      const before = Date.now()
      t.equal(await statusOf((await elsewhere())(key)), 200)
      const usedAt = await eventually(async () => (await storedKey(storage, id)).last_used_at)
      t.ok(Date.parse(usedAt) >= before)
      t.equal((await admin.send('GET', `/audit?resource_id=${id}`)).json().length, 1)
    })

    t.test('creating is repeatable, but the key is not shown again', async (t) => {
      const headers = { 'idempotency-key': randomUUID() }
      const post = () => admin.send('POST', '/api-keys', { name: 'Once' }, headers)
      const { id } = (await post()).json()
      t.match((await post()).json(), { status: 409, code: 'already_created', id })
    })

    t.test('a repeat that comes after the key is over is a repeat all the same', async (t) => {
      const headers = { 'idempotency-key': randomUUID() }
      const minutes = (count: number) => count * 60_000
      const end = new Date(Date.now() + minutes(5)).toISOString()
      const post = () => admin.send('POST', '/api-keys', { name: 'K', expires_at: end }, headers)
      const { id } = (await post()).json()
      passTime(t, minutes(6))
      t.match((await post()).json(), { status: 409, code: 'already_created', id })
    })

    t.test('a storage that is away is asked again for the next request', async (t) => {
      const { key } = await create()
      const away = broken(() => new StorageError('unavailable'))
      const refused = await troubled.trouble(away, () => api.as(key)('GET', '/flows'))
      t.equal(refused.statusCode, 503)
      t.equal(await statusOf(api.as(key)), 200)
    })

    t.test('what cannot be a key costs no read', async (t) => {
      const { key } = await create()
      const last = key.endsWith('0') ? '1' : '0'
      const impossible = ['wfa_', `${key}0`, key.slice(0, -1) + last, key.toLowerCase()]
      for (const text of impossible) {
        const asked = () => api.as(text)('GET', '/flows')
        const answer = await troubled.trouble(
          broken(() => new Error('a read')),
          asked
        )
        t.equal(answer.statusCode, 401, text)
      }
      t.equal(await statusOf(api.as(newApiKeyText())), 401, 'well-formed, and unknown')
    })
  })

t.test('a key has the documented form, and its checksum', async (t) => {
  const keys = Array.from({ length: 1000 }, newApiKeyText)
  t.equal(new Set(keys).size, keys.length)
  const digits = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
  for (const key of keys) {
    const checksum = [...key.slice(-6)].reduce((sum, digit) => sum * 62 + digits.indexOf(digit), 0)
    if (!form.test(key) || checksum !== crc32(key.slice(0, -6)) || !isApiKeyText(key)) t.fail(key)
  }
  const used = new Set(keys.flatMap((key) => [...key.slice(4, -6)]))
  t.equal(used.size, 62, 'every digit occurs')
})

t.test('whoever signs people in is not told a key', async (t) => {
  const storage = await memory.open(t)
  const local = await openLocalIdentity({ storage, secret: randomUUID(), hasher: cheapHasher })
  const told: string[] = []
  const telling = <T>(ask: (token: string) => T) => {
    return (token: string) => {
      told.push(token)
      return ask(token)
    }
  }
  const identity = { ...local, verify: telling(local.verify), signOut: telling(local.signOut) }
  const api = await testApi(t, { storage, identity })
  const admin = await api.register()
  const { key } = (await admin.send('POST', '/api-keys', { name: 'K' })).json()
  t.equal((await api.as(key)('POST', '/auth/logout')).statusCode, 204)
  t.equal(await statusOf(api.as(key)), 200, 'there is no session to end')
  t.equal((await admin.send('POST', '/auth/logout')).statusCode, 204)
  t.ok(told.length > 0)
  t.strictSame([...new Set(told)], [admin.token])
})

t.test('by the clock', async (t) => {
  const storage = await (testStorages[0] as (typeof testStorages)[0]).open(t)
  const { register } = await testApi(t, { storage })
  const { send } = await register()
  let commits = 0
  const counted: Storage = {
    ...storage,
    async commit(...given) {
      await nextTurn()
      const rows = await storage.commit(...given)
      commits++
      return rows
    }
  }
  let time = Date.now()
  let putBack = 0
  const createKeys = () =>
    createApiKeys(
      counted,
      createPrincipals(storage),
      () => time - putBack,
      () => time
    )
  const [keys, others] = [createKeys(), createKeys()]
  const later = (seconds: number) => new Date(time + seconds * 1000).toISOString()
  const create = async (body: object = {}) =>
    (await send('POST', '/api-keys', { name: 'K', ...body })).json()

  t.test('use is written once a minute, by one of many servers', async (t) => {
    const { id, key } = await create()
    for (let second = 0; second <= 120; second += 5) {
      for (const each of [keys, keys, others]) t.match(await each.verify(key), { id })
      await keys.close()
      await others.close()
      time += 5000
    }
    t.equal(commits, 3, 'at the start, after one minute and after two')
    t.ok((await storedKey(storage, id)).last_used_at)
  })

  t.test('closing waits for what is being written', async (t) => {
    const { id, key } = await create()
    await keys.verify(key)
    await keys.close()
    t.ok((await storedKey(storage, id)).last_used_at)
  })

  t.test('a key that is remembered ends when it expires', async (t) => {
    const { key } = await create({ expires_at: later(30) })
    t.ok(await keys.verify(key))
    time += 29_000
    t.ok(await keys.verify(key))
    time += 2000
    t.equal(await keys.verify(key), null)
  })

  t.test('what another process revokes ends within a minute', async (t) => {
    const { id, key } = await create()
    t.ok(await keys.verify(key))
    await send('DELETE', `/api-keys/${id}`)
    time += 59_000
    t.ok(await keys.verify(key), 'from memory')
    time += 2000
    t.equal(await keys.verify(key), null)
  })

  t.test('also where the clock is put back meanwhile', async (t) => {
    const { id, key } = await create()
    t.ok(await keys.verify(key))
    await send('DELETE', `/api-keys/${id}`)
    putBack = 60 * 60_000
    time += 61_000
    t.equal(await keys.verify(key), null)
  })
})
