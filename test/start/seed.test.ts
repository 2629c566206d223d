import { spawn } from 'node:child_process'
import { randomBytes, randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { join } from 'node:path'
import t from 'tap'
import { openLocalIdentity } from '../../adapters/identity/local.js'
import type { TenantId } from '../../adapters/storage/port.js'
import { openSqlite } from '../../adapters/storage/sqlite.js'
import { createStorage } from '../../adapters/storage/storage.js'
import { tenants } from '../../schemas/tenants.js'
import { users } from '../../schemas/users.js'
import { uncounted } from '../support/child-process.js'
import { demoTenant, runSeed } from '../support/seed.js'
import { builtProgram, runProgram } from '../support/server.js'
import { snapshotOf } from '../support/snapshot.js'
import { temporaryFolder } from '../support/storages.js'

t.test('seeding fills an empty storage once, and twice changes nothing', async (t) => {
  const folder = temporaryFolder(t)
  const env = { SQLITE_PATH: './app.db' }
  const open = () => createStorage(openSqlite({ path: join(folder, 'app.db') }))
  t.match(await runSeed(folder, env), 'The demo data is in sqlite')
  const storage = open()
  const identity = await openLocalIdentity({ storage, secret: 'x'.repeat(32) })
  t.ok(await identity.signIn('admin@example.com', 'admin123'))
  const before = await snapshotOf(storage, demoTenant)
  t.equal(before.flows?.length, 2)
  await storage.close()

  await runSeed(folder, env)
  const again = open()
  t.strictSame(await snapshotOf(again, demoTenant), before)
  await again.close()
})

t.test('it does its work where nobody reads what it says', async (t) => {
  const folder = temporaryFolder(t)
  const { PATH = '' } = process.env
  const env = { PATH, SQLITE_PATH: './app.db', ...uncounted }
  const stdio = ['ignore', 'pipe', 'pipe'] as const
  const child = spawn(process.execPath, [builtProgram('seed')], {
    cwd: folder,
    env,
    stdio: [...stdio]
  })
  child.stdout?.destroy()
  let complaint = ''
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    complaint += text
  })
  t.strictSame(await once(child, 'close'), [0, null])
  t.equal(complaint, '')
  t.match(await runSeed(folder, env), 'The demo data is in sqlite')
})

t.test('memory, which would be gone at once, is refused', async (t) => {
  const { code, output } = await runProgram('seed', temporaryFolder(t), {})
  t.equal(code, 1, output)
  t.match(output, /^The demo data would be gone/)
  t.match(output, 'SQLITE_PATH')
})

t.test(
  'production refuses the known password unless told otherwise, and guessable ones',
  async (t) => {
    const folder = temporaryFolder(t)
    const production = {
      SQLITE_PATH: './app.db',
      NODE_ENV: 'production',
      AUTH_SECRET: randomBytes(32).toString('base64'),
      ENCRYPTION_KEY: randomBytes(32).toString('base64')
    }
    t.match(await runSeed(folder, production), /^Everybody knows the demo password/)
    for (const DEMO_PASSWORD of ['Admin123', 'password1', '87654321']) {
      const { code, output } = await runProgram('seed', folder, { ...production, DEMO_PASSWORD })
      t.match({ code, output }, { code: 1, output: /^DEMO_PASSWORD is known from leaks/ })
    }
    t.match(await runSeed(folder, { ...production, ALLOW_DEMO_PASSWORD: 'true' }), /^The demo data/)
    const other = temporaryFolder(t)
    t.match(await runSeed(other, { ...production, DEMO_PASSWORD: 'another one' }), /^The demo data/)
  }
)

t.test(
  'an admin who is there keeps the password, and production tells if everybody knows it',
  async (t) => {
    const folder = temporaryFolder(t)
    const keys = {
      AUTH_SECRET: randomBytes(32).toString('base64'),
      ENCRYPTION_KEY: randomBytes(32).toString('base64')
    }
    const env = { ...keys, SQLITE_PATH: './app.db' }
    t.match(await runSeed(folder, env), /Sign in as admin@example.com\.$/m)
    const other = { ...env, DEMO_PASSWORD: 'a password of my own' }
    t.match(
      await runSeed(folder, other),
      'admin@example.com was there before, and keeps the password'
    )

    const production = { ...other, NODE_ENV: 'production' }
    const { code, output } = await runProgram('seed', folder, production)
    t.match(
      { code, output },
      { code: 1, output: /has the password that everybody knows: change it/ }
    )
    t.match(await runSeed(folder, { ...production, ALLOW_DEMO_PASSWORD: 'true' }), /^The demo data/)
  }
)

for (const [what, tenantName, email] of [
  ['the name Demo', 'Demo', 'ada@example.com'],
  ['admin@example.com', 'Acme', 'admin@example.com']
] as const)
  t.test(`nothing is made where another tenant has ${what}`, async (t) => {
    const folder = temporaryFolder(t)
    const storage = createStorage(openSqlite({ path: join(folder, 'app.db') }))
    const tenant = randomUUID() as TenantId
    await storage.commit({
      tenant,
      changes: [
        { op: 'insert', resource: tenants, row: { id: tenant, name: tenantName } },
        {
          op: 'insert',
          resource: users,
          row: { id: randomUUID(), email, name: 'Ada', role: 'admin' }
        }
      ]
    })
    const { code, output } = await runProgram('seed', folder, { SQLITE_PATH: './app.db' })
    t.equal(code, 1)
    t.equal(output, `The demo data cannot be made here: ${what} is taken. Use an empty storage.\n`)
    t.equal(await storage.get({ resource: tenants, tenant: demoTenant }, demoTenant), null)
    await storage.close()
  })
