import { spawnSync } from 'node:child_process'
import { chown, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { TenantId } from '../../adapters/storage/port.js'
import { openPostgres } from '../../adapters/storage/postgres.js'
import { openDriver, storages } from '../../adapters/storage/registry.js'
import { createStorage } from '../../adapters/storage/storage.js'
import { templates } from '../../schemas/templates.js'
import { readEnvironment } from '../../src/configuration.js'
import { runChild, startChild } from '../support/child-process.js'
import { startCutProxy } from '../support/cut-proxy.js'
import { freePort } from '../support/free-port.js'
import { assertGivenUp } from '../support/given-up.js'
import { lacks } from '../support/lacks.js'
import {
  type PostgresServer,
  startPostgres,
  unprivilegedAccount,
  withStack
} from '../support/postgres-stack.js'
import { assertLoad, createLoadTenant, loadWhile } from '../support/write-load.js'

const isInstalled = (command: string) => !spawnSync(command, ['--version']).error
const tenant = '019b76da-a800-7000-8000-00000000bbbb' as TenantId

async function temporaryFolder(t: Test): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'postgres-connections-'))
  t.teardown(() => rm(folder, { recursive: true }))
  return folder
}

await withStack(t, startPostgres, async (server) => {
  t.test('as many connections as the environment allows, prepared or not', async (t) => {
    const proxy = await startCutProxy(server.port)
    t.teardown(() => proxy.close())
    const entry = storages.find(({ kind }) => kind === 'postgres') as (typeof storages)[number]
    for (const prepared of [true, false]) {
      const database = await server.createDatabase()
      const env = readEnvironment({
        DATABASE_URL: proxy.through(server.url(database)),
        DATABASE_POOL_SIZE: '2',
        DATABASE_PREPARED_STATEMENTS: `${prepared}`
      })
      proxy.forget()
      const driver = await openDriver(entry, env)
      await Promise.all([1, 2, 3, 4, 5, 6].map(() => driver.ping()))
      const sessions = `select count(*)::int from pg_stat_activity where datname = '${database}'`
      t.strictSame(await server.query('postgres', sessions), [{ count: 2 }])
      // Parse: a length, the name of the statement, its text.
      const isNamed = /P.{4}[\w-]+\0\s*select/s.test(proxy.sent().toString('latin1'))
      t.equal(isNamed, prepared, `prepared: ${prepared}`)
      await driver.close()
    }
  })

  t.test(
    'TLS as the address asks for it',
    { skip: lacks(!isInstalled('openssl') && 'openssl') },
    (t) => testTls(t, server)
  )
  t.test(
    'a pooler in transaction mode, which keeps no prepared statements',
    { skip: lacks(!isInstalled('pgbouncer') && 'pgbouncer') },
    (t) => testPooler(t, server)
  )
})

async function testTls(t: Test, server: PostgresServer) {
  const folder = await temporaryFolder(t)
  const [key, certificate] = [join(folder, 'server.key'), join(folder, 'server.crt')]
  const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost']
  const request = ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', ...subject]
  await runChild('openssl', [...request, '-keyout', key, '-out', certificate])
  await installFile(server, 'server.key', await readFile(key, 'utf8'))
  await installFile(server, 'server.crt', await readFile(certificate, 'utf8'))
  await server.query('postgres', 'alter system set ssl = on')
  await server.stop()
  await server.start()

  const database = await server.createDatabase()
  const url = server.url(database).replace('127.0.0.1', 'localhost')
  const encrypted = `select bool_and(ssl) as all from pg_stat_ssl join pg_stat_activity using (pid)
    where datname = '${database}' and usename = 'app'`

  await t.rejects(openPostgres({ url: `${url}?sslmode=verify-full` }), {
    code: 'unavailable',
    message: /self-signed/
  })
  for (const parameters of [
    `sslmode=verify-full&sslrootcert=${certificate}`,
    'sslmode=no-verify',
    'uselibpqcompat=true&sslmode=require'
  ]) {
    const driver = await openPostgres({ url: `${url}?${parameters}` })
    t.strictSame(await server.query(database, encrypted), [{ all: true }], parameters)
    await driver.close()
    await assertGivenUp(t, `${url}?${parameters}`)
  }
}

/** Writes a file of the data folder, as the account that the server runs as. */
async function installFile(server: PostgresServer, name: string, text: string): Promise<void> {
  await server.query(
    'postgres',
    `copy (select unnest(string_to_array('${text.trim()}', E'\\n')))
       to program 'umask 077; cat > ${name}'`
  )
}

async function testPooler(t: Test, server: PostgresServer) {
  const folder = await temporaryFolder(t)
  const account = await unprivilegedAccount()
  const port = await freePort()
  const settings = join(folder, 'pgbouncer.ini')
  await writeFile(
    settings,
    `[databases]
* = host=127.0.0.1 port=${server.port} user=app
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
`
  )
  if (account) await chown(folder, account.uid, account.gid)
  const pooler = startChild('pgbouncer', [settings], { ...account })
  t.teardown(async () => {
    pooler.signal('SIGKILL')
    await pooler.ended()
  })
  await pooler.wrote('process up')

  const database = await server.createDatabase()
  // auth_type any makes everybody the user of the database line.
  const url = server.url(database).replace(`:${server.port}/`, `:${port}/`)
  const warnings: string[] = []
  const onWarning = (message: string) => warnings.push(message)

  for (const preparedStatements of [true, false]) {
    const storage = createStorage(
      await openPostgres({ url, poolSize: 8, preparedStatements, onWarning })
    )
    const id = preparedStatements ? tenant : ('019b76da-a800-7000-8000-00000000cccc' as TenantId)
    await createLoadTenant(storage, id)
    const outcome = await loadWhile(storage, id, async (progress) => {
      for (let i = 0; i < 10; i++) {
        await progress(10)
        const from = { resource: templates, tenant: id }
        await Promise.all([1, 2, 3, 4].map((limit) => storage.list(from, { limit })))
      }
    })
    t.strictSame([...outcome.refused, ...outcome.unknown], [], 'every commit went through')
    await assertLoad(t, storage, id, outcome)
    await storage.close()
  }
  const given = { direct: server.url(database), preparedStatements: false }
  for (let round = 0; round < 3; round++) await assertGivenUp(t, url, given)
  t.match(warnings, [/does not keep prepared statements/])
  t.equal(warnings.length, 1, 'told once, and not where it was known')
}
