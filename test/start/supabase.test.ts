import { randomBytes } from 'node:crypto'
import t from 'tap'
import { createStorage } from '../../adapters/storage/storage.js'
import { openSupabase } from '../../adapters/storage/supabase.js'
import { withStack } from '../support/postgres-stack.js'
import { demoTenant, runSeed } from '../support/seed.js'
import { addressOf, runProgram, startServer } from '../support/server.js'
import { snapshotOf } from '../support/snapshot.js'
import { temporaryFolder } from '../support/storages.js'
import { startSupabase } from '../support/supabase-stack.js'
import { adminOf } from '../support/tidy-identity.js'

const demo = { email: 'admin@example.com', password: 'admin123' }

// On local parts alone: a project of somebody may have the demo data already.
t.test('starting on Supabase', (t) =>
  withStack(t, startSupabase, async (project) => {
    const folder = temporaryFolder(t)
    const env = { SUPABASE_URL: project.url, SUPABASE_SERVICE_ROLE_KEY: project.key }
    const storage = createStorage(await openSupabase(project))
    t.teardown(() => storage.close())
    const accounts = async () => (await adminOf(project).listUsers()).data.users

    async function signIn(api: string, credentials = demo): Promise<number> {
      const headers = { 'content-type': 'application/json' }
      const body = JSON.stringify(credentials)
      return (await fetch(`${api}/auth/login`, { method: 'POST', headers, body })).status
    }

    await t.test('production refuses the known password, and needs no AUTH_SECRET', async (t) => {
      const production = {
        ...env,
        NODE_ENV: 'production',
        ENCRYPTION_KEY: randomBytes(32).toString('base64')
      }
      t.match(await runSeed(temporaryFolder(t), production), /^Everybody knows the demo password/)
      t.strictSame(await accounts(), [])
    })

    await t.test('a project whose rules the known password does not meet is named', async (t) => {
      project.auth.settings.minPasswordLength = 12
      const refused = await runSeed(folder, env)
      project.auth.settings.minPasswordLength = 6
      t.equal(
        refused,
        `${project.url} refuses the password of ${demo.email}: Password should be at least 12 ` +
          'characters. Set DEMO_PASSWORD to one that meets its rules, or relax them.\n'
      )
      t.strictSame(await accounts(), [])
      t.strictSame((await snapshotOf(storage, demoTenant)).users, [])
    })

    await t.test('seeding makes the row and the account, and twice changes nothing', async (t) => {
      t.match(await runSeed(folder, env), 'The demo data is in supabase')
      const [rows, made] = [await snapshotOf(storage, demoTenant), await accounts()]
      t.equal(rows.flows?.length, 2)
      const ids = rows.users?.map((row) => (row as { id: string }).id)
      t.strictSame(ids, [made[0]?.id])
      t.match(made, [{ email: demo.email }])
      t.match(await runSeed(folder, env), 'The demo data is in supabase')
      t.strictSame(await snapshotOf(storage, demoTenant), rows)
      t.strictSame(await accounts(), made)
    })

    await t.test('two variables are all that a start needs, and the next start, too', async (t) => {
      for (const start of ['first', 'second']) {
        const child = startServer(t, folder, env)
        const api = await addressOf(child)
        t.match(
          child.output(),
          /Storage +supabase \(SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY set\)/
        )
        t.match(child.output(), /Keys +kept in \.\/data\/supabase\.keys/)
        t.notMatch(child.output(), project.key, 'the key is not shown')
        t.equal(await signIn(api), 200, start)
        child.signal('SIGTERM')
        await child.ended()
      }
    })

    await t.test('an account that was deleted by hand comes back with the seed', async (t) => {
      const [account] = await accounts()
      await adminOf(project).deleteUser(account?.id ?? '')
      await runSeed(folder, env)
      t.match(await accounts(), [{ id: account?.id, email: demo.email }])
      t.equal(await signIn(await addressOf(startServer(t, folder, env))), 200)
    })

    await t.test('npm run users sets the password of the account, by its rules', async (t) => {
      const api = await addressOf(startServer(t, folder, env))
      const reset = (password: string) =>
        runProgram('users-command', folder, env, ['reset-password', demo.email], password)
      project.auth.settings.minPasswordLength = 12
      const refused = await reset('ten chars.')
      project.auth.settings.minPasswordLength = 6
      t.strictSame(refused, { code: 1, output: 'Password should be at least 12 characters.\n' })
      t.equal(await signIn(api), 200)
      const password = 'a password of my own'
      t.match(await reset(password), { code: 0, output: `${demo.email} has the new password.` })
      t.equal(await signIn(api), 401)
      t.equal(await signIn(api, { ...demo, password }), 200)
      const { audit } = await snapshotOf(storage, demoTenant)
      t.match(audit?.[0], { actor: 'system', action: 'user.update', fields: ['password'] })
    })
  })
)
