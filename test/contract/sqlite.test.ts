import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { openSqlite } from '../../adapters/storage/sqlite.js'
import { storageContract } from './storage-contract.js'

await storageContract(t, 'SQLite', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'contract-'))
  return {
    open: async () => openSqlite({ path: join(folder, 'app.db') }),
    dispose: () => rm(folder, { recursive: true })
  }
})
