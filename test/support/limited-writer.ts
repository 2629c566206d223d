import { writeSync } from 'node:fs'
import Database from '../../adapters/storage/better-sqlite3.js'
import type { TenantId } from '../../adapters/storage/port.js'
import { openSqlite } from '../../adapters/storage/sqlite.js'
import { createStorage } from '../../adapters/storage/storage.js'
import { templates } from '../../schemas/templates.js'

/**
 * A program that commits in groups until the file system refuses more, under a limit on the size
 * of files that its parent set. It writes a line for each commit: `stored` or `failed` and the
 * key; and one for each COMMIT that failed.
 */
const [, , path = '', tenant = ''] = process.argv
function say(...words: unknown[]): void {
  writeSync(1, `${words.join(' ')}\n`)
}

// Without a listener the signal ends the process; with one, the write fails.
process.on('SIGXFSZ', () => {})

const { exec } = Database.prototype
Database.prototype.exec = function (sql) {
  try {
    return exec.call(this, sql)
  } catch (error) {
    say(sql, 'failed', (error as { code?: unknown }).code)
    throw error
  }
}

const storage = createStorage(openSqlite({ path }))
let failures = 0

async function write(id: string, kilobytes: number): Promise<void> {
  const row = { id, name: id, description: 'x'.repeat(kilobytes * 1024) }
  const insert = { op: 'insert', resource: templates, row } as const
  try {
    await storage.commit({ tenant: tenant as TenantId, changes: [insert] })
    say('stored', id)
  } catch (error) {
    failures++
    say('failed', id, (error as { code?: unknown }).code)
  }
}

async function writeGroup(group: number, sizes: readonly number[]): Promise<void> {
  await Promise.all(sizes.map((kilobytes, i) => write(`t${group}.${i}`, kilobytes)))
}

// More than the page cache holds: it is written, and refused, in the middle of the group. SQLite
// then ends the transaction by itself.
await writeGroup(0, [1, 32 * 1024, 1])
for (let group = 1; failures < 12; group++) await writeGroup(group, [1, 9, 1, 5])
const { rows } = await storage.list(
  { resource: templates, tenant: tenant as TenantId },
  { limit: 1000 }
)
for (const { id } of rows) say('listed', id)
// Not closed: what was acknowledged must survive the end of the process as it is.
process.exit()
