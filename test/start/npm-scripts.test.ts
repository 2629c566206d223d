import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { packageFile } from '../../adapters/package-files.js'
import { startChild } from '../support/child-process.js'
import { addressOf } from '../support/server.js'
import { type Teardown, temporaryFolder } from '../support/storages.js'

const { scripts } = JSON.parse(readFileSync(packageFile('package.json'), 'utf8'))

/**
 * Starts what `npm run` would, which is the sources, where other tests start the build. Not by npm,
 * which does not hand on a signal.
 */
function runScript(t: Teardown, name: string, ...args: string[]) {
  const [command, ...given] = scripts[name].split(' ')
  return startChild(
    fileURLToPath(packageFile(`node_modules/.bin/${command}`)),
    [...given, ...args],
    {
      cwd: fileURLToPath(packageFile('.')),
      env: {
        PATH: process.env.PATH,
        PORT: '0',
        // Said outright, so that a developer's `.env` chooses no other.
        STORAGE: 'sqlite',
        SQLITE_PATH: join(temporaryFolder(t), 'app.db')
      }
    }
  )
}

t.test('seed, keys, users and migrate run from the sources', async (t) => {
  const seed = runScript(t, 'seed')
  t.equal(await seed.ended(), 0, seed.output())
  t.match(seed.output(), 'The demo data is in sqlite')

  const keys = runScript(t, 'keys', 'check')
  t.equal(await keys.ended(), 1, keys.output())
  t.match(keys.output(), 'there is no key file')

  const users = runScript(t, 'users', 'reset-password', 'ada@example.com')
  t.equal(await users.ended(), 1, users.output())
  t.match(users.output(), 'Standard input has no password')

  const migrate = runScript(t, 'migrate', 'up')
  t.equal(await migrate.ended(), 2, migrate.output())
  t.match(migrate.output(), 'Usage: npm run migrate')
})

t.test('dev serves from the sources, on SQLite with demo data', async (t) => {
  const dev = runScript(t, 'dev')
  t.teardown(async () => {
    dev.signal('SIGTERM')
    await dev.ended()
  })
  const answer = await fetch(`${await addressOf(dev)}/auth/login`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ email: 'admin@example.com', password: 'admin123' })
  })
  t.equal(answer.status, 200)
})
