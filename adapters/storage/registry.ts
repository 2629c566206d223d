import type { Environment } from '../../schemas/environment.js'
import type { Driver } from './driver.js'

/** A storage that the environment can choose. */
export interface StorageEntry {
  readonly kind: NonNullable<Environment['STORAGE']>
  /** Variables that choose it when all are set. Some without the others are a mistake. */
  readonly needs: readonly (keyof Environment)[]
  readonly open: (env: Environment) => Promise<Driver>
}

/**
 * Every storage, a line each; the first whose variables are set is chosen. A driver's packages
 * are loaded when it is opened and not before.
 */
export const storages: readonly StorageEntry[] = [
  {
    kind: 'sqlite',
    needs: ['SQLITE_PATH'],
    open: async (env) =>
      (await import('./sqlite.js')).openSqlite({ path: env.SQLITE_PATH ?? './data/app.db' })
  },
  { kind: 'memory', needs: [], open: async () => (await import('./memory.js')).openMemory() }
]
