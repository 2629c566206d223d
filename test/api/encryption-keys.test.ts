import { randomBytes } from 'node:crypto'
import t from 'tap'
import { ACROSS_TENANTS, type Storage, type TenantId } from '../../adapters/storage/port.js'
import { audit } from '../../schemas/audit.js'
import { secrets } from '../../schemas/secrets.js'
import { templates } from '../../schemas/templates.js'
import { users } from '../../schemas/users.js'
import { createKeyring, type EncryptionKey } from '../../src/encryption.js'
import { checkSecrets, rotateSecrets } from '../../src/key-rotation.js'
import { createSecretReader } from '../../src/secret-values.js'
import { createStore } from '../../src/store.js'
import { testApi } from '../support/api.js'
import { testStorages } from '../support/storages.js'
import { troubledStorage } from '../support/troubled-storage.js'

const key = (id: string): EncryptionKey => ({ id, key: randomBytes(32) })
const value = (name: string) => `the value of ${name}`

async function tenantOf(storage: Storage, userId: string): Promise<TenantId> {
  const user = await storage.get({ resource: users, tenant: ACROSS_TENANTS }, userId)
  return user?.tenant_id as TenantId
}

for (const on of testStorages)
  t.test(`encryption keys on ${on.kind}`, { skip: on.skip }, async (t) => {
    const first = key('default')
    const keyring = createKeyring([first])
    const api = await testApi(t, { on, keyring })
    const admin = await api.register()
    const { send } = admin
    const tenant = await tenantOf(api.storage, admin.id)
    const origin = { tenant, actor: 'test', requestId: null }
    const stored = (name: string) => api.storage.get({ resource: secrets, tenant }, name)
    const read = createSecretReader(api.storage, keyring)
    const put = (name: string, body: object = {}) =>
      send('PUT', `/secrets/${name}`, { value: value(name), ...body })
    const readEntries = async () =>
      (await send('GET', '/audit?action=secret.read&order=asc')).json()

    t.test('a value is read in one way, which leaves an entry', async (t) => {
      await put('A')
      t.equal(await read(origin, 'A'), value('A'))
      t.match(await readEntries(), [
        { actor: 'test', action: 'secret.read', resource: 'secrets', resource_id: 'A', fields: [] }
      ])
    })

    t.test('nobody gets what is expired, of another tenant, or not there', async (t) => {
      const before = await readEntries()
      await put('OLD', { expires_at: '2020-01-01T00:00:00Z' })
      await t.rejects(read(origin, 'OLD'), { name: 'SecretExpired' })
      await t.rejects(read(origin, 'NONE'), { name: 'StorageError', code: 'not_found' })
      const stranger = await api.register()
      const elsewhere = { ...origin, tenant: await tenantOf(api.storage, stranger.id) }
      await t.rejects(read(elsewhere, 'A'), { code: 'not_found' })
      t.strictSame(await readEntries(), before, 'and no entry says otherwise')
    })

    t.test('no value without its entry', async (t) => {
      const troubled = troubledStorage(api.storage)
      const reader = createSecretReader(troubled.storage, keyring)
      const commit = async () => {
        throw new Error('no commit')
      }
      await troubled.trouble({ commit }, () => t.rejects(reader(origin, 'A'), /no commit/))
    })

    t.test('entries of a millisecond, too, are in the order of what they tell', async (t) => {
      const actor = 'in turn'
      const store = createStore(api.storage, { ...origin, actor })
      for (let n = 0; n < 30; n++) {
        await store.insert(templates, { id: `in-turn-${n}`, name: 'T', description: '' })
        await read({ ...origin, actor }, 'A')
      }
      const entries = (await send('GET', `/audit?actor=${actor}&order=asc&limit=250`)).json()
      t.strictSame(
        entries.map(({ action }: { action: string }) => action),
        Array(30).fill(['template.create', 'secret.read']).flat()
      )
    })

    t.test('what is replaced while it is read is read again', async (t) => {
      const troubled = troubledStorage(api.storage)
      const reader = createSecretReader(troubled.storage, keyring)
      let replaced = false
      const get: Storage['get'] = async (from, name) => {
        const row = await api.storage.get(from, name)
        if (!replaced) await put('A', { value: 'the next' })
        replaced = true
        return row
      }
      await troubled.trouble({ get }, async () => t.equal(await reader(origin, 'A'), 'the next'))
    })

    t.test('rotation moves every secret to the first key, once', async (t) => {
      const [old, next] = [key('old'), key('next')]
      const oldRing = createKeyring([old])
      for (const name of ['R1', 'R2', 'R3']) {
        await put(name)
        const sealed = oldRing.seal(value(name), [tenant, name])
        const change = { op: 'update', resource: secrets, key: name, set: sealed } as const
        await api.storage.commit({ tenant, changes: [change] })
      }
      const ring = createKeyring([next, old])
      // Those of the tests above are under a key that this ring does not have.
      const { unreadable, rotated } = await rotateSecrets(api.storage, ring)
      t.equal(rotated, 3)
      t.strictSame(
        unreadable.filter((each) => each.tenant === tenant).map(({ name, keyId }) => [name, keyId]),
        [
          ['A', 'default'],
          ['OLD', 'default']
        ],
        'and names what it cannot open'
      )
      const onlyNext = createSecretReader(api.storage, createKeyring([next]))
      for (const name of ['R1', 'R2', 'R3']) {
        t.equal((await stored(name))?.key_id, 'next')
        t.equal(await onlyNext(origin, name), value(name))
      }
      const entries = (await send('GET', '/audit?action=secret.rotate&order=asc')).json()
      const told = entries.map(
        ({ actor, resource_id }: Record<string, string>) => `${actor} ${resource_id}`
      )
      t.strictSame(told.sort(), ['system R1', 'system R2', 'system R3'])
      t.notMatch(JSON.stringify(entries), 'ciphertext')
      t.equal((await rotateSecrets(api.storage, ring)).rotated, 0, 'a second run has nothing to do')
    })

    t.test('one that nothing opens breaks no list, and is named', async (t) => {
      await put('BROKEN')
      const broken = { ciphertext: 'AAAA', key_id: 'lost' }
      const change = { op: 'update', resource: secrets, key: 'BROKEN', set: broken } as const
      await api.storage.commit({ tenant, changes: [change] })
      const list = await send('GET', '/secrets')
      t.equal(list.statusCode, 200)
      t.ok(list.json().some(({ name }: { name: string }) => name === 'BROKEN'))
      t.equal((await send('GET', '/secrets/BROKEN')).statusCode, 200)
      await t.rejects(read(origin, 'BROKEN'), { name: 'DecryptionError', message: /lost/ })
      const { unreadable } = await checkSecrets(api.storage, keyring)
      t.match(
        unreadable.filter(({ name }) => name === 'BROKEN'),
        [{ tenant, name: 'BROKEN', keyId: 'lost' }]
      )
      t.equal((await put('BROKEN')).statusCode, 200, 'it can be set anew')
      t.equal(await read(origin, 'BROKEN'), value('BROKEN'))
    })

    t.test('a change at the moment of the rotation is not undone by it', async (t) => {
      const troubled = troubledStorage(api.storage)
      const next = key('later')
      const row = await stored('A')
      if (!row) throw new Error('no such row')
      let replaced = false
      const get: Storage['get'] = async (from, name) => {
        const found = await api.storage.get(from, name)
        if (name === 'A' && !replaced) {
          replaced = true
          await put('A', { value: 'newest' })
        }
        return found
      }
      const ring = createKeyring([next, first])
      await troubled.trouble({ get }, () => rotateSecrets(troubled.storage, ring))
      t.ok(replaced)
      t.equal((await stored('A'))?.key_id, 'later')
      t.equal(await createSecretReader(api.storage, ring)(origin, 'A'), 'newest')
    })

    t.test('nor is one in the way that is deleted at this moment', async (t) => {
      for (const name of ['GONE', 'STAYS']) await put(name)
      const troubled = troubledStorage(api.storage)
      const get: Storage['get'] = async (from, name) => {
        if (name === 'GONE') await send('DELETE', '/secrets/GONE')
        return api.storage.get(from, name)
      }
      const ring = createKeyring([key('while deleting'), first])
      await troubled.trouble({ get }, () => rotateSecrets(troubled.storage, ring))
      t.equal(await stored('GONE'), null)
      t.equal((await stored('STAYS'))?.key_id, 'while deleting')
    })

    t.test('it ends beside a server that writes with an older key, and tells', async (t) => {
      const ring = createKeyring([key('newest'), first])
      const troubled = troubledStorage(api.storage)
      let written = 0
      const list: Storage['list'] = async (from, query) => {
        if (query.cursor === undefined && from.tenant === tenant) await put(`W${written++}`)
        return api.storage.list(from, query)
      }
      await troubled.trouble({ list }, async () => {
        const { stillWritten } = await rotateSecrets(troubled.storage, ring)
        t.ok(stillWritten > 0, `${stillWritten} of ${written} in the last pass`)
      })
      t.equal((await rotateSecrets(api.storage, ring)).stillWritten, 0, 'nothing is left')
    })

    t.test('what was broken off is taken up where it was', async (t) => {
      const names = Array.from({ length: 30 }, (_, i) => `S${i}`)
      for (const name of names) await put(name)
      const ring = createKeyring([key('last'), first])
      const stop = new Error('broken off')
      const halfWay = ({ rotated }: { rotated: number }) => {
        if (rotated >= 10) throw stop
      }
      await t.rejects(rotateSecrets(api.storage, ring, { onProgress: halfWay }), stop)
      const keyIds = await Promise.all(names.map(async (name) => (await stored(name))?.key_id))
      const done = keyIds.filter((id) => id === 'last').length
      t.ok(done > 0 && done < names.length, `${done} are done`)
      await rotateSecrets(api.storage, ring)
      for (const name of names)
        t.equal(await createSecretReader(api.storage, ring)(origin, name), value(name))
      const from = { resource: audit, tenant } as const
      const { total } = await api.storage.list(from, {
        filter: { action: 'secret.rotate', resource_id: 'S0' },
        limit: 1,
        count: 'exact'
      })
      t.equal(total, 1, 'none is done twice')
    })
  })
