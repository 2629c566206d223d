import type { Environment } from '../../schemas/environment.js'
import type { Driver } from './driver.js'
import { StorageError } from './errors.js'

/** A storage that the environment can choose. */
export interface StorageEntry {
  readonly kind: NonNullable<Environment['STORAGE']>
  /** Variables that choose it when all are set. Some without the others are a mistake. */
  readonly needs: readonly (keyof Environment)[]
  /** Which sign-in goes with it. */
  readonly identity: 'local' | 'supabase'
  /** Whether rows outlive the process. */
  readonly isKept: boolean
  /** The file that they are in, where nobody else has them. Variables that choose it may be unset. */
  readonly file?: (env: Environment) => string
  /** `mayMake`: whether what is missing is made, where the storage can do that. */
  readonly open: (env: Environment, mayMake: boolean) => Promise<Driver>
}

/**
 * Every storage; the first whose variables are set is chosen. A driver's packages
 * are loaded when it is opened and not before.
 */
export const storages: readonly StorageEntry[] = [
  {
    kind: 'supabase',
    needs: ['SUPABASE_URL', 'SUPABASE_SERVICE_ROLE_KEY'],
    identity: 'supabase',
    isKept: true,
    open: async ({ SUPABASE_URL: url = '', SUPABASE_SERVICE_ROLE_KEY: key = '' }) =>
      (await import('./supabase.js')).openSupabase({ url, key })
  },
  {
    kind: 'postgres',
    needs: ['DATABASE_URL'],
    identity: 'local',
    isKept: true,
    open: async (env) =>
      (await import('./postgres.js')).openPostgres({
        url: env.DATABASE_URL ?? '',
        poolSize: env.DATABASE_POOL_SIZE,
        preparedStatements: env.DATABASE_PREPARED_STATEMENTS
      })
  },
  {
    kind: 'sqlite',
    needs: ['SQLITE_PATH'],
    identity: 'local',
    isKept: true,
    file: sqliteFile,
    open: async (env, mayMake) =>
      (await import('./sqlite.js')).openSqlite({ path: sqliteFile(env), mayMake })
  },
  {
    kind: 'memory',
    needs: [],
    identity: 'local',
    isKept: false,
    open: async () => (await import('./memory.js')).openMemory()
  }
]

function sqliteFile({ SQLITE_PATH = './data/app.db' }: Environment): string {
  return SQLITE_PATH
}

/** @throws StorageError `driver_missing` where a package of the storage is not installed. */
export async function openDriver(
  entry: StorageEntry,
  env: Environment,
  mayMake = true
): Promise<Driver> {
  try {
    return await entry.open(env, mayMake)
  } catch (cause) {
    if (!isModuleMissing(cause)) throw cause
    const message = `The packages of the ${entry.kind} storage are not installed. Run npm ci.`
    throw new StorageError('driver_missing', { cause }, message)
  }
}

function isModuleMissing(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException
  return code === 'ERR_MODULE_NOT_FOUND' || code === 'MODULE_NOT_FOUND'
}
