import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import Database from '../../adapters/storage/better-sqlite3.js'
import { freePort } from '../support/free-port.js'
import { startPostgres } from '../support/postgres-stack.js'
import { startRedis } from '../support/redis.js'
import { addressOf, runProgram, startServer } from '../support/server.js'
import { type Teardown, temporaryFolder } from '../support/storages.js'

const demo = { email: 'admin@example.com', password: 'admin123' }

interface Tokens {
  readonly token: string
  readonly refresh_token: string
}

async function post(url: string, body: unknown): Promise<Response> {
  const headers = { 'content-type': 'application/json' }
  return fetch(url, { method: 'POST', headers, body: JSON.stringify(body) })
}

async function fails(t: Teardown, env: Record<string, string>, folder = temporaryFolder(t)) {
  const child = startServer(t, folder, env)
  await child.ended()
  return child.output()
}

t.test('without any variable it serves the demo from memory, and says so', async (t) => {
  const child = startServer(t, temporaryFolder(t))
  const api = await addressOf(child)
  t.match(child.output(), /Storage +memory \(no storage is configured\)/)
  t.match(child.output(), /Nothing is kept/)
  t.match(child.output(), 'admin@example.com / admin123')
  t.notMatch(child.output(), 'Sign up')
  t.notMatch(child.output(), /lets others in|you chose/)
  const login = await post(`${api}/auth/login`, demo)
  const { token } = (await login.json()) as Tokens
  const headers = { authorization: `Bearer ${token}` }
  const flows = (await (await fetch(`${api}/flows`, { headers })).json()) as { id: string }[]
  t.strictSame(flows.map(({ id }) => id).sort(), ['flow_digest', 'flow_onboarding'])
  t.equal((await fetch(`${api}/docs`)).status, 200)
  t.match(await (await fetch(`${api}/ready`)).json(), { status: 'ready', storage: 'memory' })
})

t.test('on SQLite rows, sessions and tokens outlive a restart', async (t) => {
  const folder = temporaryFolder(t)
  const env = { SQLITE_PATH: './data/app.db' }
  const first = startServer(t, folder, env)
  const before = await addressOf(first)
  t.match(first.output(), /Storage +sqlite \(SQLITE_PATH set\)/)
  t.match(first.output(), /Keys +.*app\.db\.keys/)
  t.notMatch(first.output(), 'admin123', 'no demo login where there is no demo data')
  t.match(first.output(), `Sign up   POST ${before}/auth/register\n`)
  const body = { ...demo, password: 'a real password', tenant_name: 'Acme', name: 'Ada' }
  const registered = await post(`${before}/auth/register`, body)
  const { token, refresh_token } = (await registered.json()) as Tokens
  const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' }
  const flow = { method: 'PUT', headers, body: JSON.stringify({ name: 'Kept' }) }
  t.equal((await fetch(`${before}/flows/kept`, flow)).status, 201)
  t.equal(statSync(join(folder, 'data/app.db.keys')).mode & 0o777, 0o600)
  first.signal('SIGTERM')
  await first.ended()

  const after = await addressOf(startServer(t, folder, env))
  t.match(await (await fetch(`${after}/flows/kept`, { headers })).json(), { name: 'Kept' })
  t.equal((await post(`${after}/auth/refresh`, { refresh_token })).status, 200)
})

t.test('--dev works on SQLite with demo data', async (t) => {
  const folder = temporaryFolder(t)
  const child = startServer(t, folder, {}, { args: ['--dev'] })
  const api = await addressOf(child)
  t.match(child.output(), /Storage +sqlite/)
  t.ok(existsSync(join(folder, 'data/app.db')))
  t.equal((await post(`${api}/auth/login`, demo)).status, 200)
  child.signal('SIGTERM')
  await child.ended()
  const again = startServer(t, folder, {}, { args: ['--dev'] })
  t.equal((await post(`${await addressOf(again)}/auth/login`, demo)).status, 200)
})

t.test('--dev tells no password that it did not set', async (t) => {
  const folder = temporaryFolder(t)
  await runProgram('seed', folder, {
    SQLITE_PATH: './data/app.db',
    DEMO_PASSWORD: 'a password of my own'
  })
  const child = startServer(t, folder, {}, { args: ['--dev'] })
  const api = await addressOf(child)
  t.equal((await post(`${api}/auth/login`, demo)).status, 401)
  t.notMatch(child.output(), demo.password)
  t.match(child.output(), 'Sign in   admin@example.com, with the password you chose')
})

t.test('--dev starts where the demo data cannot be made, and tells who signs in', async (t) => {
  const folder = temporaryFolder(t)
  const file = join(folder, 'data/app.db')
  const first = startServer(t, folder, {}, { args: ['--dev'] })
  await addressOf(first)
  first.signal('SIGTERM')
  await first.ended()
  const db = new Database(file)
  db.exec("update users set email = 'ada@example.com'")
  const renamed = startServer(t, folder, {}, { args: ['--dev'] })
  await addressOf(renamed)
  t.match(renamed.output(), `Sign in   ada@example.com / ${demo.password}`)
  renamed.signal('SIGTERM')
  await renamed.ended()
  db.exec(
    "update users set email = 'admin@example.com', id = '019b76da-a800-7000-8000-000000000099'"
  )
  db.close()
  const taken = startServer(t, folder, {}, { args: ['--dev'] })
  t.equal((await fetch(`${await addressOf(taken)}/health`)).status, 200)
  t.match(taken.output(), 'admin@example.com is taken. Use an empty storage.')
})

t.test('--dev makes no demo data where others may work, too', async (t) => {
  const server = await startPostgres()
  t.teardown(() => server.dispose())
  const database = await server.createDatabase()
  const env = { STORAGE: 'postgres', DATABASE_URL: server.url(database) }
  const child = startServer(t, temporaryFolder(t), env, { args: ['--dev'] })
  const api = await addressOf(child)
  t.equal((await post(`${api}/auth/login`, demo)).status, 401)
  t.match(child.output(), 'Sign up')
  child.signal('SIGTERM')
  await child.ended()
})

t.test('.env.local comes before .env, and the environment before both', async (t) => {
  const folder = temporaryFolder(t)
  writeFileSync(
    join(folder, '.env'),
    'SQLITE_PATH=./from-env.db\nREGISTRATION=closed\nHOST=127.0.0.2\n'
  )
  writeFileSync(join(folder, '.env.local'), 'SQLITE_PATH=./from-local.db\n')
  const child = startServer(t, folder, { HOST: '127.0.0.1' })
  const api = await addressOf(child)
  t.match(api, 'http://127.0.0.1:')
  t.notMatch(child.output(), 'Sign up', 'registration is closed')
  t.ok(existsSync(join(folder, 'from-local.db')))
  t.notOk(existsSync(join(folder, 'from-env.db')))
  const body = { ...demo, tenant_name: 'Acme', name: 'Ada' }
  t.equal((await post(`${api}/auth/register`, body)).status, 403)
})

t.test('a mistake stops the start with a sentence, not a stack', async (t) => {
  t.match(await fails(t, { PORT: 'http' }), /^PORT /)
  const taken = createServer().listen(0, '127.0.0.1')
  await once(taken, 'listening')
  const { port } = taken.address() as AddressInfo
  t.match(await fails(t, { PORT: String(port) }), new RegExp(`^PORT ${port} is in use`, 'm'))
  taken.close()
  t.match(await fails(t, { HOST: '192.0.2.1' }), /^HOST 192.0.2.1 is not an address/m)
  t.match(await fails(t, { NODE_ENV: 'production' }), /^AUTH_SECRET is not set/)
  const folder = temporaryFolder(t)
  writeFileSync(join(folder, 'notes.txt'), 'This is no database, whatever its name may say.')
  const output = await fails(t, { SQLITE_PATH: './notes.txt' }, folder)
  t.match(output, 'not an SQLite database')
  t.notMatch(output, /^ +at /m)
})

t.test('a Postgres that cannot be used is told with the reason, in a line', async (t) => {
  const folder = temporaryFolder(t)
  // As on hosts where localhost has an address of each kind.
  const addresses = '[{ address: "::1", family: 6 }, { address: "127.0.0.1", family: 4 }]'
  const lookup = `import dns from "node:dns"; dns.lookup = (name, how, done) => done(null, ${addresses})`
  const away = {
    DATABASE_URL: `postgres://user@two.test:${await freePort()}/database`,
    NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(lookup)}`
  }
  const bothTried = /^Postgres cannot be used: .*ECONNREFUSED 127\.0\.0\.1.*\n$/
  t.match(await fails(t, away, folder), bothTried)
  t.match(await runProgram('migrate', folder, away), { code: 1, output: bothTried })

  const query = 'sslmode=verify-full&sslrootcert=missing.crt'
  const uncertain = { DATABASE_URL: `postgres://user@127.0.0.1:1/database?${query}` }
  const noFile = /^Postgres cannot be used: .*missing\.crt.*\n$/
  t.match(await fails(t, uncertain, folder), noFile)
  t.match(await runProgram('migrate', folder, uncertain), { code: 1, output: noFile })
})

t.test('a start that fails ends, though Redis is connected', async (t) => {
  const { url } = await startRedis(t)
  const taken = createServer().listen(0, '127.0.0.1')
  await once(taken, 'listening')
  t.teardown(() => taken.close())
  const { port } = taken.address() as AddressInfo
  const child = startServer(t, temporaryFolder(t), { PORT: String(port), REDIS_URL: url })
  t.equal(await child.ended(), 1)
  t.match(child.output(), new RegExp(`^PORT ${port} is in use`, 'm'))
})

t.test('an IPv6 address stands in brackets', async (t) => {
  const child = startServer(t, temporaryFolder(t), { HOST: '::1' })
  const api = await addressOf(child)
  t.match(api, /^http:\/\/\[::1\]:/)
  t.equal((await fetch(`${api}/health`)).status, 200)
})

t.test('a demo that others reach says that they know its password', async (t) => {
  const child = startServer(t, temporaryFolder(t), { HOST: '0.0.0.0' })
  await addressOf(child)
  t.match(child.output(), /admin123\n +Everybody knows this password, and HOST lets others in/)
})

t.test('a name with two addresses is one server', async (t) => {
  const folder = temporaryFolder(t)
  const hosts = join(folder, 'hosts.mjs')
  // As where /etc/hosts has localhost twice.
  writeFileSync(
    hosts,
    `import dns from 'node:dns'
     import { syncBuiltinESMExports } from 'node:module'
     const addresses = [{ address: '::1', family: 6 }, { address: '127.0.0.1', family: 4 }]
     const { lookup } = dns
     dns.lookup = (name, options, done) =>
       name === 'localhost' && options.all ? done(null, addresses) : lookup(name, options, done)
     syncBuiltinESMExports()`
  )
  const nodeOptions = ['--import', hosts]
  const child = startServer(t, folder, { HOST: 'localhost' }, { nodeOptions })
  const api = await addressOf(child)
  t.match(api, /^http:\/\/localhost:/)
  const { port } = new URL(api)
  t.equal((await fetch(`http://127.0.0.1:${port}/api/health`)).status, 200)
  await t.rejects(fetch(`http://[::1]:${port}/api/health`))
})

t.test('a lost key file, and another one, are told at the next start', async (t) => {
  const folder = temporaryFolder(t)
  const env = { SQLITE_PATH: './app.db' }
  const child = startServer(t, folder, env)
  await addressOf(child)
  child.signal('SIGTERM')
  await child.ended()
  const keys = join(folder, 'app.db.keys')
  const own = readFileSync(keys)
  rmSync(keys)
  t.match(
    await fails(t, env, folder),
    /^ENCRYPTION_KEY is not set, and there is no key file \.\/app\.db\.keys: /
  )
  t.notOk(existsSync(keys), 'none is made, which would open nothing')
  writeFileSync(
    keys,
    JSON.stringify({
      auth_secret: 'x'.repeat(44),
      encryption_key: Buffer.alloc(32).toString('base64')
    })
  )
  t.match(await fails(t, env, folder), /key default is not the one/)
  writeFileSync(keys, own)
  t.ok(await addressOf(startServer(t, folder, env)))
})

t.test('no keys are made beside a database of another program', async (t) => {
  const folder = temporaryFolder(t)
  const other = new Database(join(folder, 'other.db'))
  other.exec('create table photos (name text)')
  other.close()
  t.match(await fails(t, { SQLITE_PATH: './other.db' }, folder), /tables of another program/)
  t.strictSame(readdirSync(folder), ['other.db'])
})
