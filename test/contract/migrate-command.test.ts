import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { tmpdir } from 'node:os'
import t from 'tap'
import { readMigrations } from '../../adapters/storage/migrations.js'
import { uncounted } from '../support/child-process.js'
import { startPostgres, withStack } from '../support/postgres-stack.js'
import { builtProgram } from '../support/server.js'

const versions = readMigrations('postgres').map(({ version }) => version)

/** Runs the command where no `.env` is, with these variables only. */
async function migrate(args: string[], variables: Record<string, string> = {}) {
  const child = spawn(process.execPath, [builtProgram('migrate'), ...args], {
    cwd: tmpdir(),
    env: { PATH: process.env.PATH, ...uncounted, ...variables },
    stdio: ['ignore', 'pipe', 'pipe']
  })
  let output = ''
  let errors = ''
  child.stdout.on('data', (text) => {
    output += text
  })
  child.stderr.on('data', (text) => {
    errors += text
  })
  const [code] = await once(child, 'close')
  return { code, output, errors }
}

await withStack(t, startPostgres, async (server) => {
  t.test('brings a database to the schema, and says what it did', async (t) => {
    const DATABASE_URL = server.url(await server.createDatabase('empty'))
    const pending = await migrate(['status'], { DATABASE_URL })
    t.match(pending, { code: 1, output: new RegExp(`^pending +${versions[0]}\n`) })
    t.match(await migrate(['--print'], { DATABASE_URL }), { code: 0, output: 'create table' })
    t.match(await migrate([], { DATABASE_URL }), { code: 0, output: `${versions.join('\n')}\n` })
    t.match(await migrate([], { DATABASE_URL }), { code: 0, output: 'Nothing to apply.\n' })
    t.match(await migrate(['--print'], { DATABASE_URL }), { code: 0, output: '' })
    const applied = await migrate(['status'], { SUPABASE_DB_URL: DATABASE_URL })
    t.match(applied, { code: 0, output: new RegExp(`^applied +${versions[0]} +20\\d\\d-`) })
  })

  t.test('says what is wrong in a line', async (t) => {
    t.match(await migrate([]), { code: 2, errors: /^Set DATABASE_URL, or SUPABASE_DB_URL.*\n$/ })
    t.match(await migrate(['up']), { code: 2, errors: 'Usage: npm run migrate' })
    t.match(await migrate(['--print']), { code: 0, output: 'create table' }, 'needs no database')
    const DATABASE_URL = server.url('missing')
    t.match(await migrate([], { DATABASE_URL }), { code: 1, errors: /^.*missing.*\n$/ })
    const readOnly = new URL(server.url(await server.createDatabase('empty')))
    readOnly.searchParams.set('options', '-c default_transaction_read_only=on')
    const refused = {
      code: 1,
      errors: /^The migration 20261123000000_init failed, .*read-only transaction\n$/
    }
    t.match(await migrate([], { DATABASE_URL: readOnly.href }), refused)
  })
})
