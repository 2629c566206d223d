import { randomBytes } from 'node:crypto'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import Database from '../../adapters/storage/better-sqlite3.js'
import { addressOf, runProgram, startServer } from '../support/server.js'
import { temporaryFolder } from '../support/storages.js'

const key = () => randomBytes(32).toString('base64')
const SECRETS = 200

const runKeys = (cwd: string, env: Record<string, string>, ...args: string[]) =>
  runProgram('keys-command', cwd, env, args)

t.test('keys are rotated while the API serves', async (t) => {
  const folder = temporaryFolder(t)
  const file = join(folder, 'app.db')
  const [old, next] = [`old:${key()}`, `next:${key()}`]
  const env = { SQLITE_PATH: file, AUTH_SECRET: key(), LOG_LEVEL: 'silent' }
  const serve = (...keys: string[]) =>
    startServer(t, folder, { ...env, ENCRYPTION_KEY: keys.join() })
  const before = serve(old)
  let api = await addressOf(before)
  const post = (path: string, body: object, token = '') =>
    fetch(`${api}${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${token}` },
      body: JSON.stringify(body)
    })
  const registered = await post('/auth/register', {
    tenant_name: 'Acme',
    name: 'Ada',
    email: 'ada@example.com',
    password: 'a password for this test'
  })
  const { token } = (await registered.json()) as { token: string }
  const headers = { authorization: `Bearer ${token}` }
  for (let i = 0; i < SECRETS; i++) await post('/secrets', { name: `S${i}`, value: `v${i}` }, token)
  before.signal('SIGTERM')
  await before.ended()
  api = await addressOf(serve(next, old))

  const rotation = { ...env, ENCRYPTION_KEY: `${next},${old}` }
  let rotating = true
  const running = runKeys(folder, rotation, 'rotate').finally(() => {
    rotating = false
  })
  const refused: number[] = []
  let served = 0
  while (rotating) {
    const written = await post('/secrets', { name: `W${served}`, value: 'while' }, token)
    const read = await fetch(`${api}/secrets?limit=250`, { headers })
    for (const { status } of [written, read]) if (status >= 400) refused.push(status)
    await Promise.all([written.text(), read.text()])
    served++
  }
  const { code, output } = await running
  t.equal(code, 0, output)
  t.match(output, `${SECRETS} were encrypted anew`)
  t.match(output, /^\[#*-+\] \d+ of \d+ secrets, \d+ encrypted anew$/m, 'how far it is')
  t.strictSame(refused, [], `${served} writes and reads went through meanwhile`)
  t.comment(output.trim())

  const onlyNext = { ...env, ENCRYPTION_KEY: next }
  const checked = await runKeys(folder, onlyNext, 'check')
  t.equal(checked.code, 0, checked.output)
  t.match(checked.output, `${SECRETS + served} under next`)

  const db = new Database(file)
  // What a server does that was left with the other key, in the same moment.
  db.exec(`create trigger written_again after update of key_id on secrets when new.name = 'S0' begin
    update secrets set key_id = old.key_id, ciphertext = old.ciphertext where name = 'S0'; end`)
  const back = await runKeys(folder, { ...env, ENCRYPTION_KEY: `${old},${next}` }, 'rotate')
  t.equal(back.code, 1, back.output)
  t.match(back.output, /still writes with an older key: 1 secrets .*run it again/)
  db.exec('drop trigger written_again')
  t.equal((await runKeys(folder, rotation, 'rotate')).code, 0)

  db.prepare("update secrets set ciphertext = 'AAAA' where name = 'S7'").run()
  db.close()
  const broken = await runKeys(folder, onlyNext, 'check')
  t.equal(broken.code, 1)
  t.match(broken.output, /No configured key opens the secret S7 of tenant .*key next/)
  t.equal((await fetch(`${api}/secrets`, { headers })).status, 200)
})

t.test('what cannot be done is said in a sentence', async (t) => {
  const folder = temporaryFolder(t)
  t.match(await runKeys(folder, {}), { code: 2, output: /^Usage/ })
  t.match(await runKeys(folder, {}, 'rotate', 'now'), { code: 2, output: /^Usage/ })
  t.match(await runKeys(folder, {}, 'rotate'), { code: 1, output: /^Secrets in memory end/ })
})

t.test('a database or keys that are not there are not made, and not called well', async (t) => {
  const folder = temporaryFolder(t)
  const missing = { SQLITE_PATH: './missing.db', ENCRYPTION_KEY: key() }
  for (const command of ['check', 'rotate'])
    t.match(await runKeys(folder, missing, command), {
      code: 1,
      output: /^There is no database of the API at \.\/missing\.db\. Name the file/
    })
  t.strictSame(readdirSync(folder), [])
  await runProgram('seed', folder, {
    SQLITE_PATH: './app.db',
    ENCRYPTION_KEY: key(),
    AUTH_SECRET: key()
  })
  t.match(await runKeys(folder, { SQLITE_PATH: './app.db' }, 'check'), {
    code: 1,
    output: /^ENCRYPTION_KEY is not set, and there is no key file \.\/app\.db\.keys/
  })
  t.notOk(readdirSync(folder).includes('app.db.keys'))
})

t.test('a look changes nothing: neither another file, nor what the keys are told by', async (t) => {
  const folder = temporaryFolder(t)
  const other = new Database(join(folder, 'other.db'))
  other.exec('create table photos (name text)')
  const elsewhere = { SQLITE_PATH: './other.db', ENCRYPTION_KEY: key() }
  t.match(await runKeys(folder, elsewhere, 'check'), {
    code: 1,
    output: /^The database file cannot be opened: \.\/other\.db has tables of another program\./
  })
  t.strictSame(other.prepare('select name from sqlite_schema').pluck().all(), ['photos'])
  other.close()

  const env = { SQLITE_PATH: './app.db', AUTH_SECRET: key() }
  const first = key()
  await runProgram('seed', folder, { ...env, ENCRYPTION_KEY: first })
  const withNew = () => ({ ...env, ENCRYPTION_KEY: `default:${first},new:${key()}` })
  t.equal((await runKeys(folder, withNew(), 'check')).code, 0)
  t.equal(
    (await runKeys(folder, withNew(), 'check')).code,
    0,
    'another key of that id, still unused'
  )
  t.equal((await runKeys(folder, withNew(), 'rotate')).code, 0)
  t.match(await runKeys(folder, withNew(), 'rotate'), {
    code: 1,
    output: /^The encryption key new is not/
  })
})

t.test('the keys beside the database serve, and a secret of tokens is not needed', async (t) => {
  const folder = temporaryFolder(t)
  await runProgram('seed', folder, { SQLITE_PATH: './app.db' })
  t.match(await runKeys(folder, { SQLITE_PATH: './app.db' }, 'check'), {
    code: 0,
    output: /^1 secrets of 1 tenants/m
  })
  const other = { SQLITE_PATH: './other.db', ENCRYPTION_KEY: key() }
  await runProgram('seed', folder, { ...other, AUTH_SECRET: key() })
  t.match(await runKeys(folder, other, 'check'), { code: 0, output: /^1 secrets of 1 tenants/m })
})
