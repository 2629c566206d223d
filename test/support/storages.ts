import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openMemory } from '../../adapters/storage/memory.js'
import type { Storage } from '../../adapters/storage/port.js'
import { openSqlite } from '../../adapters/storage/sqlite.js'
import { createStorage } from '../../adapters/storage/storage.js'

/** The part of a tap test that cleans up. */
export interface Teardown {
  teardown(clean: () => unknown): void
}

export interface TestStorage {
  readonly kind: string
  /** An empty storage of its own, closed and removed with the test. */
  open(t: Teardown): Promise<Storage>
}

/** The storages that the API is tested on, all of them by the same tests. */
export const testStorages: readonly TestStorage[] = [
  {
    kind: 'memory',
    async open(t) {
      const storage = createStorage(openMemory())
      t.teardown(() => storage.close())
      return storage
    }
  },
  {
    kind: 'sqlite',
    async open(t) {
      const folder = temporaryFolder(t)
      const storage = createStorage(openSqlite({ path: join(folder, 'app.db') }))
      t.teardown(() => storage.close())
      return storage
    }
  }
]

/** A folder that goes with the test. */
export function temporaryFolder(t: Teardown): string {
  const folder = mkdtempSync(join(tmpdir(), 'workflow-api-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}
