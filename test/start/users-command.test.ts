import { randomBytes } from 'node:crypto'
import { readdirSync } from 'node:fs'
import t, { type Test } from 'tap'
import { startPostgres, withStack } from '../support/postgres-stack.js'
import { addressOf, runProgram, startServer } from '../support/server.js'
import { temporaryFolder } from '../support/storages.js'

type Env = Record<string, string>

const key = () => randomBytes(32).toString('base64')
const keys = () => ({ AUTH_SECRET: key(), ENCRYPTION_KEY: key() })
const email = 'ada@example.com'
const forgotten = 'the one that she forgot'

function reset(folder: string, env: Env, password?: string | Buffer, to = email) {
  return runProgram('users-command', folder, env, ['reset-password', to], password)
}

/** As in a terminal, which a test has none of. */
function resetInTerminal(folder: string, env: Env) {
  const terminal = encodeURIComponent('process.stdin.isTTY = true')
  return reset(folder, { ...env, NODE_OPTIONS: `--import=data:text/javascript,${terminal}` })
}

/** A server with a tenant and its only admin, signed in. */
async function serveAda(t: Test, folder: string, env: Env) {
  const api = await addressOf(startServer(t, folder, { ...env, LOG_LEVEL: 'silent' }))
  async function post(path: string, body: object) {
    const answer = await fetch(`${api}${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body)
    })
    const { token = '', refresh_token = '' } = (await answer.json()) as Partial<Env>
    return { status: answer.status, token, refresh_token }
  }
  function get(path: string, token: string) {
    return fetch(`${api}${path}`, { headers: { authorization: `Bearer ${token}` } })
  }
  const account = { tenant_name: 'Acme', name: 'Ada', email, password: forgotten }
  const session = await post('/auth/register', account)
  const signIn = (password: string) => post('/auth/login', { email, password })
  return { session, signIn, post, get }
}

/** On a storage of its own, beside the server that serves from it. */
async function resetsBesideServer(t: Test, folder: string, env: Env): Promise<void> {
  const { session, signIn, post, get } = await serveAda(t, folder, env)
  t.equal((await get('/auth/me', session.token)).status, 200, 'known to the server')

  const { code, output } = await reset(folder, env, 'another that is piped in\n')
  t.equal(code, 0, output)
  t.equal(output, `${email} has the new password. Sessions from before end within a minute.\n`)

  t.equal((await signIn(forgotten)).status, 401, 'the old password')
  const { refresh_token } = session
  t.equal((await post('/auth/refresh', { refresh_token })).status, 401, 'the old refresh token')
  // At the latest a minute after; the refused refresh made the server look again.
  t.equal((await get('/auth/me', session.token)).status, 401, 'the old access token')

  const { status, token } = await signIn('another that is piped in')
  t.equal(status, 200, 'the new password')
  const log = await (await get('/audit?resource=users&limit=1', token)).text()
  const [entry] = JSON.parse(log)
  t.match(entry, { actor: 'system', action: 'user.update', fields: ['password'] })
  t.notMatch(log, 'piped')
}

t.test('a password is reset beside the server: SQLite', (t) =>
  resetsBesideServer(t, temporaryFolder(t), { SQLITE_PATH: './app.db', ...keys() })
)

t.test('a password is reset beside the server: Postgres', (t) =>
  withStack(t, startPostgres, async (server) => {
    const DATABASE_URL = server.url(await server.createDatabase())
    await resetsBesideServer(t, temporaryFolder(t), { DATABASE_URL, ...keys() })
  })
)

t.test('in a terminal one is drawn, and shown with what to do', async (t) => {
  const folder = temporaryFolder(t)
  const env = { SQLITE_PATH: './app.db' }
  const { signIn } = await serveAda(t, folder, env)
  const drawn = new Set<string>()
  for (const time of ['first', 'second']) {
    const { code, output } = await resetInTerminal(folder, env)
    t.equal(code, 0, output)
    const [first, password = '', ...rest] = output.split('\n')
    t.equal(first, `The new password of ${email}, which is shown only now:`)
    t.match(password, /^[\w-]{24}$/)
    t.match(rest.join('\n'), 'change it with PATCH /api/users/me')
    t.equal((await signIn(password)).status, 200, time)
    drawn.add(password)
  }
  t.equal(drawn.size, 2, 'each time another')
})

t.test('an email is found in capitals, and a password in any form of its letters', async (t) => {
  const folder = temporaryFolder(t)
  const env = { SQLITE_PATH: './app.db' }
  const { signIn } = await serveAda(t, folder, env)
  const { code, output } = await reset(folder, env, 'cafe\u0301 au lait\r\n', 'ADA@example.com')
  t.equal(code, 0, output)
  t.equal((await signIn('caf\u00e9 au lait')).status, 200)
})

t.test('what cannot be a password is refused in a line, and changes nothing', async (t) => {
  const folder = temporaryFolder(t)
  const env = { SQLITE_PATH: './app.db' }
  const { session, signIn, get } = await serveAda(t, folder, env)
  const cases: [input: string | Buffer | undefined, output: RegExp][] = [
    ['short\n', /^The password must NOT have fewer than 8 characters\.\n$/],
    ['x'.repeat(257), /^The password must NOT have more than 256 characters\.\n$/],
    ['Password1\n', /^The password is known from leaks, or a pattern, .*\n$/],
    ['87654321\n', /^The password is known from leaks, or a pattern, .*\n$/],
    ['with a \0 in it', /^The password contains the character NUL\.\n$/],
    [Buffer.from('caf\u00e9 au lait', 'latin1'), /^The password is not in UTF-8\.\n$/],
    ['in two lines\nof a file\n', /^Standard input has several lines: .*\n$/],
    ['\n', /^Standard input has no password: .*\n$/],
    [undefined, /^Standard input has no password: .*\n$/]
  ]
  for (const [input, output] of cases) t.match(await reset(folder, env, input), { code: 1, output })
  t.equal((await signIn(forgotten)).status, 200)
  const log = await get('/audit?action=user.update', session.token)
  t.strictSame(await log.json(), [])
})

t.test('who, or what, is not there is said in a line', async (t) => {
  const folder = temporaryFolder(t)
  const password = 'a password of the test'
  t.match(await reset(folder, {}), {
    code: 1,
    output: /^Users in memory end with the server that has them\.\n$/
  })
  t.match(await reset(folder, { SQLITE_PATH: './app.db', ...keys() }, password), {
    code: 1,
    output: /^There is no database of the API at \.\/app\.db\. .*\n$/
  })
  t.strictSame(readdirSync(folder), [], 'nothing is made')
  await runProgram('seed', folder, { SQLITE_PATH: './app.db' })
  t.match(await reset(folder, { SQLITE_PATH: './app.db' }, password), {
    code: 1,
    output: /^There is no user with the email ada@example\.com\.\n$/
  })
})

t.test('other arguments, a password among them, get the usage', async (t) => {
  const usage = { code: 2, output: /^Usage: npm run users -- reset-password EMAIL\n/ }
  for (const args of [[], ['reset-password'], ['reset-password', email, 's3cr3t-word'], ['list']]) {
    const told = await runProgram('users-command', temporaryFolder(t), {}, args)
    t.match(told, usage, args.join(' '))
    t.notMatch(told.output, 's3cr3t')
  }
})
