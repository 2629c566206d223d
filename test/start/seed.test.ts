import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import t from 'tap'
import { openLocalIdentity } from '../../adapters/identity/local.js'
import { openSqlite } from '../../adapters/storage/sqlite.js'
import { createStorage } from '../../adapters/storage/storage.js'
import { demoTenant, runSeed } from '../support/seed.js'
import { runProgram } from '../support/server.js'
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

t.test('memory, which would be gone at once, is refused', async (t) => {
  const { code, output } = await runProgram('seed', temporaryFolder(t), {})
  t.equal(code, 1, output)
  t.match(output, /^The demo data would be gone/)
  t.match(output, 'SQLITE_PATH')
})

t.test('production refuses the known password unless told otherwise', async (t) => {
  const folder = temporaryFolder(t)
  const production = {
    SQLITE_PATH: './app.db',
    NODE_ENV: 'production',
    AUTH_SECRET: randomBytes(32).toString('base64'),
    ENCRYPTION_KEY: randomBytes(32).toString('base64')
  }
  t.match(await runSeed(folder, production), /^Everybody knows the demo password/)
  t.match(await runSeed(folder, { ...production, ALLOW_DEMO_PASSWORD: 'true' }), /^The demo data/)
  const other = temporaryFolder(t)
  t.match(await runSeed(other, { ...production, DEMO_PASSWORD: 'another one' }), /^The demo data/)
})
