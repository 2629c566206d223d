// Our API as `npm start` makes it, from the build and the environment, with BENCH_ROWS templates
// in it and somebody signed in. Sign-in is the local one on every storage, and with
// BENCH_POSTGREST requests to Supabase go straight to that port: what is measured is ours.

import http from 'node:http'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { openLocalIdentity } from '../../adapters/identity/local.ts'
import { ACROSS_TENANTS } from '../../adapters/storage/port.ts'
import { openDriver } from '../../adapters/storage/registry.ts'
import { createStorage } from '../../adapters/storage/storage.ts'
import { templates } from '../../schemas/templates.ts'
import { users } from '../../schemas/users.ts'
import { buildApp } from '../../src/app.ts'
import { chooseStorage, readEnvironment } from '../../src/configuration.ts'
import { findKeys } from '../../src/keys.ts'
import { logStream } from '../../src/log-stream.ts'
import { keepNextTickFast } from '../../src/next-tick.ts'
import { openLlm } from '../../src/open.ts'
import './inside.mjs'
import { announce } from './log.mjs'
import { templateRow, timeOf } from './rows.mjs'

const { BENCH_POSTGREST, BENCH_ROWS = '0' } = process.env
const account = { email: 'bench@example.com', password: 'a password of the bench' }

if (BENCH_POSTGREST) {
  const { request } = http
  const prefix = `${process.env.SUPABASE_URL}/rest/v1`
  http.request = (url, ...rest) =>
    request(String(url).replace(prefix, `http://127.0.0.1:${BENCH_POSTGREST}`), ...rest)
}

keepNextTickFast()
const env = readEnvironment(process.env)
const { entry } = chooseStorage(env)
const { authSecret, keyring } = findKeys(env, entry)
const storage = createStorage(await openDriver(entry, env))
const identity = await openLocalIdentity({ storage, secret: authSecret })
const app = await buildApp({
  env,
  storage,
  identity,
  keyring,
  providers: await openLlm(env),
  stopping: new AbortController().signal,
  logger: { level: env.LOG_LEVEL, stream: logStream() }
})

await app.inject({
  method: 'POST',
  url: '/api/auth/register',
  payload: { ...account, tenant_name: 'Bench', name: 'Bench' }
})
const login = await app.inject({ method: 'POST', url: '/api/auth/login', payload: account })
const { rows } = await storage.list(
  { resource: users, tenant: ACROSS_TENANTS },
  { filter: { email: account.email }, limit: 1 }
)
const tenant = rows[0].tenant_id
await fill(Number(BENCH_ROWS))
const url = await app.listen({ port: 0, host: '127.0.0.1' })
announce({ url, tenant, token: login.json().token, pid: process.pid })

async function fill(count) {
  for (let n = 0; n < count; ) {
    const changes = []
    for (const at = n; n < count && n < at + 500; n++)
      changes.push({ op: 'insert', resource: templates, row: templateRow(n) })
    await storage.commit({ tenant, changes, at: timeOf(n) })
    // In memory nothing waits, and an event loop held up for seconds is an overload.
    await nextTurn()
  }
}
