import { join } from 'node:path'
import t from 'tap'
import Database from '../../adapters/storage/better-sqlite3.js'
import type { TenantId } from '../../adapters/storage/port.js'
import { openSqlite } from '../../adapters/storage/sqlite.js'
import { createStorage } from '../../adapters/storage/storage.js'
import { uuid } from '../../adapters/uuid.js'
import { idempotencyKeys } from '../../schemas/idempotency-keys.js'
import { tenants } from '../../schemas/tenants.js'
import { addressOf, startServer } from '../support/server.js'
import { temporaryFolder } from '../support/storages.js'

const OLD = 300

t.test('of two servers on one file one prunes, and both stop in order', async (t) => {
  const folder = temporaryFolder(t)
  const path = join(folder, 'app.db')
  const storage = createStorage(openSqlite({ path }))
  const tenant = uuid() as TenantId
  await storage.commit({
    tenant,
    changes: [
      { op: 'insert', resource: tenants, row: { id: tenant, name: 'Acme' } },
      ...Array.from({ length: OLD + 1 }, (_, i) => {
        const expires_at = i < OLD ? '2026-01-01T00:00:00.000Z' : '2099-01-01T00:00:00.000Z'
        const row = { id: `${i}`, request_digest: 'digest', resource_id: 'flow', expires_at }
        return { op: 'insert', resource: idempotencyKeys, row } as const
      })
    ]
  })
  await storage.close()
  // One of them makes the keys, which a server that starts at the same moment would make, too.
  const keys = {
    AUTH_SECRET: 'x'.repeat(32),
    ENCRYPTION_KEY: Buffer.alloc(32, 1).toString('base64')
  }
  const env = { SQLITE_PATH: path, RETENTION_BATCH_SIZE: '50', ...keys }
  const servers = [startServer(t, folder, env), startServer(t, folder, env)]
  await Promise.all(servers.map(addressOf))
  const told = '"msg":"old rows are pruned"'
  await Promise.race(servers.map((server) => server.wrote(told)))
  for (const server of servers) {
    server.signal('SIGTERM')
    t.equal(await server.ended(), 0)
  }
  const output = servers.map((server) => server.output()).join('')
  t.equal(output.split(told).length - 1, 1, 'one of them')
  t.match(output, `"pruned":{"idempotency_keys":${OLD}}`)
  t.notMatch(output, 'pruning failed')
  const db = new Database(path, { readonly: true })
  t.teardown(() => db.close())
  t.equal(db.prepare('select count(*) from idempotency_keys').pluck().get(), 1)
  t.equal(db.pragma('freelist_count', { simple: true }), 0, 'their space is given back')
})
