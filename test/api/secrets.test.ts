import t from 'tap'
import { ACROSS_TENANTS, type TenantId } from '../../adapters/storage/port.js'
import { secrets } from '../../schemas/secrets.js'
import { users } from '../../schemas/users.js'
import { testApi } from '../support/api.js'
import { testStorages } from '../support/storages.js'

for (const on of testStorages)
  t.test(`secrets on ${on.kind}`, { skip: on.skip }, async (t) => {
    const api = await testApi(t, { on })
    const admin = await api.register()
    const { send } = admin
    const value = 'the value that nobody reads back'

    const from = { resource: users, tenant: ACROSS_TENANTS } as const
    const tenant = (await api.storage.get(from, admin.id))?.tenant_id as TenantId
    const stored = (name: string) => api.storage.get({ resource: secrets, tenant }, name)

    t.test('the value goes in and does not come out', async (t) => {
      const answers = [
        await send('POST', '/secrets', { name: 'TOKEN', value }),
        await send('GET', '/secrets/TOKEN'),
        await send('GET', '/secrets'),
        await send('PUT', '/secrets/TOKEN', { value }),
        await send('GET', '/audit')
      ]
      for (const answer of answers) {
        t.ok(answer.statusCode < 300)
        t.notMatch(answer.body, value)
        t.notMatch(answer.body, 'ciphertext')
        t.notMatch(answer.body, 'key_id')
      }
      t.match(answers[0]?.json(), { name: 'TOKEN', expires_at: null, expired: false })
    })

    t.test('what is stored is encrypted, and opens only in its place', async (t) => {
      const row = await stored('TOKEN')
      if (!row) throw new Error('no such row')
      t.notMatch(JSON.stringify(row), value)
      t.equal(api.keyring.open(row, [row.tenant_id, 'TOKEN']), value)
      t.throws(() => api.keyring.open(row, [row.tenant_id, 'OTHER']), { name: 'DecryptionError' })
      t.throws(() => api.keyring.open(row, ['another tenant', 'TOKEN']))
    })

    t.test('the same value is never encrypted to the same text', async (t) => {
      const before = await stored('TOKEN')
      await send('PUT', '/secrets/TOKEN', { value })
      t.not((await stored('TOKEN'))?.ciphertext, before?.ciphertext)
    })

    t.test('expiry shows', async (t) => {
      await send('PUT', '/secrets/OLD', { value, expires_at: '2020-01-01T00:00:00Z' })
      await send('PUT', '/secrets/NEW', { value, expires_at: '9999-12-31T23:59:59+00:00' })
      t.match((await send('GET', '/secrets/OLD')).json(), {
        expired: true,
        expires_at: '2020-01-01T00:00:00.000Z'
      })
      t.match((await send('GET', '/secrets/NEW')).json(), { expired: false, expires_soon: false })
      const days = (count: number) => new Date(Date.now() + count * 86_400_000).toISOString()
      await send('PUT', '/secrets/SOON', { value, expires_at: days(13) })
      await send('PUT', '/secrets/LATER', { value, expires_at: days(15) })
      const shown = (await send('GET', '/secrets')).json() as { name: string }[]
      const soon = shown.filter((secret) => 'expires_soon' in secret && secret.expires_soon)
      t.strictSame(
        soon.map(({ name }) => name),
        ['SOON'],
        'neither what has expired nor what has long to go'
      )
    })

    t.test('a change leaves the value, or the expiry, as it is', async (t) => {
      const opened = async () => {
        const row = await stored('KEPT')
        return row && { value: api.keyring.open(row, [tenant, 'KEPT']), expires_at: row.expires_at }
      }
      const expires_at = '2099-01-31T00:00:00.000Z'
      await send('PUT', '/secrets/KEPT', { value })
      t.match((await send('PATCH', '/secrets/KEPT', { expires_at })).json(), { expires_at })
      t.strictSame(await opened(), { value, expires_at })
      const changed = await send('PATCH', '/secrets/KEPT', { value: 'another' })
      t.match(changed.json(), { expires_at, expired: false })
      t.notMatch(changed.body, 'another')
      t.strictSame(await opened(), { value: 'another', expires_at })
      await send('PATCH', '/secrets/KEPT', { expires_at: null })
      t.strictSame(await opened(), { value: 'another', expires_at: null })
      const audit = await send('GET', '/audit?resource_id=KEPT&action=secret.update&order=asc')
      const fields = audit.json().map((entry: { fields: string[] }) => entry.fields)
      t.strictSame(fields, [['expires_at'], ['value'], ['expires_at']])
      t.equal((await send('PATCH', '/secrets/KEPT', { value: null })).statusCode, 400)
    })

    t.test('the name is the key, in any script', async (t) => {
      for (const name of ['ключ', '鍵', '🔑', 'a.b-c_d', "it's", '100%']) {
        const created = await send('POST', '/secrets', { name, value })
        t.equal(created.statusCode, 201, name)
        const read = await send('GET', String(created.headers.location).replace('/api', ''))
        t.equal(read.json().name, name)
      }
      t.equal((await send('POST', '/secrets', { name: 'ключ', value })).statusCode, 409)
    })
  })
