import { existsSync } from 'node:fs'
import { copyFile, mkdir, mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { createClient } from '@supabase/supabase-js'
import t, { type Test } from 'tap'
import { packageFile } from '../../adapters/package-files.js'
import { readMigrations } from '../../adapters/storage/migrations.js'
import type { TenantId } from '../../adapters/storage/port.js'
import { openPostgres } from '../../adapters/storage/postgres.js'
import {
  migratePostgres,
  migrationSql,
  migrationStatus
} from '../../adapters/storage/postgres-migrate.js'
import { createStorage } from '../../adapters/storage/storage.js'
import { openSupabase } from '../../adapters/storage/supabase.js'
import { isTimestamp } from '../../adapters/storage/timestamp.js'
import { resources } from '../../schemas/registry.js'
import type { AnyResource, ColumnKind } from '../../schemas/resource.js'
import { tenants } from '../../schemas/tenants.js'
import { runChild } from '../support/child-process.js'
import { startCutProxy } from '../support/cut-proxy.js'
import { lacks } from '../support/lacks.js'
import { type PostgresServer, startPostgres, withStack } from '../support/postgres-stack.js'
import { type LocalSupabase, startSupabase } from '../support/supabase-stack.js'

const folder = fileURLToPath(packageFile('migrations/postgres/'))
const versions = (await readdir(folder)).sort().map((name) => name.slice(0, -'.sql'.length))
const newest = versions.at(-1) as string

const types: Record<ColumnKind, string> = {
  text: 'text',
  integer: 'bigint',
  real: 'double precision',
  boolean: 'boolean',
  timestamp: 'timestamp(3) with time zone',
  json: 'jsonb'
}

/** What a resource's rows are found, filtered, sorted or told apart by. */
function comparedColumns(resource: AnyResource): Set<string> {
  const { key, scope, filters, references, unique } = resource
  const referring = references.map(({ field }) => field)
  const told = unique.flatMap(({ fields }) => fields)
  return new Set([key, ...(scope ? [scope] : []), ...filters, ...referring, ...told])
}

t.test('the schema on plain Postgres', (t) =>
  withStack(t, startPostgres, async (server) => {
    const database = await server.createDatabase()
    const query = (sql: string) => server.query(database, sql)

    t.test('has the columns that the resources declare', async (t) => {
      const columns = await query(`
        select c.relname, a.attname, format_type(a.atttypid, a.atttypmod) as type,
            not a.attnotnull as nullable, l.collname
          from pg_class c join pg_attribute a on a.attrelid = c.oid
          left join pg_collation l on l.oid = a.attcollation
          where relnamespace = 'public'::regnamespace and relkind = 'r'
            and attnum > 0 and not attisdropped`)
      for (const resource of resources) {
        const found = columns.filter(({ relname }) => relname === resource.name)
        const compared = comparedColumns(resource)
        const shape = found.map(({ attname, type, nullable }) => ({
          name: attname,
          type,
          nullable
        }))
        const declared = resource.columns.map(({ name, kind, nullable }) => {
          return { name, type: types[kind], nullable }
        })
        const byName = (a: { name: unknown }, b: { name: unknown }) =>
          `${a.name}` < `${b.name}` ? -1 : 1
        t.strictSame(shape.sort(byName), declared.sort(byName), resource.name)
        for (const { attname, type, collname } of found)
          if (type === 'text' && compared.has(attname as string))
            t.equal(collname, 'C', `${resource.name}.${attname} sorts by bytes`)
      }
    })

    t.test('has the keys, references and unique fields that the resources declare', async (t) => {
      const rows = await query(`
        select conrelid::regclass::text as table, pg_get_constraintdef(oid) as definition
          from pg_constraint where connamespace = 'public'::regnamespace`)
      for (const resource of resources) {
        const { name, tenancy, key, unique, references } = resource
        const within = tenancy === 'owned' ? 'tenant_id, ' : ''
        const cascade = ' ON DELETE CASCADE'
        const declared = [
          `PRIMARY KEY (${within}${key})`,
          ...unique.map(
            (each) => `UNIQUE (${each.within === 'tenant' ? within : ''}${each.fields.join(', ')})`
          ),
          ...references.map(
            ({ field, to, onDelete }) =>
              `FOREIGN KEY (tenant_id, ${field}) REFERENCES ${to}(tenant_id, id)${onDelete === 'cascade' ? cascade : ''}`
          ),
          ...(tenancy === 'owned'
            ? [`FOREIGN KEY (tenant_id) REFERENCES tenants(id)${cascade}`]
            : [])
        ]
        // Postgres 18 lists NOT NULL here, too.
        const found = rows.filter(
          (row) => row.table === name && !`${row.definition}`.startsWith('NOT NULL')
        )
        t.strictSame(
          found.map(({ definition }) => `${definition}`.replaceAll('public.', '')).sort(),
          declared.sort(),
          name
        )
      }
    })

    t.test('has an index for every list, every filter and every reference', async (t) => {
      const rows = await query(
        "select tablename, indexdef from pg_indexes where schemaname = 'public'"
      )
      for (const resource of resources.filter(({ tenancy }) => tenancy === 'owned')) {
        const { name, key, order } = resource
        const indexes = rows.filter(({ tablename }) => tablename === name)
        for (const fields of [[], ...resource.indexes]) {
          const columns = `(${['tenant_id', ...fields, order, key].join(', ')})`
          t.ok(
            indexes.some(({ indexdef }) => `${indexdef}`.endsWith(columns)),
            `${name} ${columns}`
          )
        }
      }
    })

    t.test('lists every table for the functions, and no other', async (t) => {
      const rows = await query('select * from public.api_tables order by name')
      const declared = resources.map(({ name, key, scope, order }) => {
        return { name, key_column: key, scope_column: scope, order_column: order }
      })
      t.strictSame(
        rows,
        declared.sort((a, b) => (a.name < b.name ? -1 : 1))
      )
    })

    t.test('has row level security on for every table, with no policy', async (t) => {
      const open = await query(`
        select relname from pg_class
          where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and not relrowsecurity`)
      t.strictSame(open, [])
      t.strictSame(await query('select policyname from pg_policies'), [])
    })

    t.test('has no function that finds what a caller puts into its search path', async (t) => {
      const open = await query(`
        select proname from pg_proc where pronamespace = 'public'::regnamespace
          and not coalesce(proconfig, '{}') @> array['search_path=""']`)
      t.strictSame(open, [])
    })

    t.test('records the name of each file in the file itself', async (t) => {
      const empty = await server.createDatabase('empty')
      await server.query(empty, await migrationSql(), 'app')
      const rows = await server.query(
        empty,
        'select version, checksum from public.schema_migrations'
      )
      t.strictSame(
        rows,
        versions.map((version) => ({ version, checksum: null }))
      )
      const url = server.url(empty)
      const states = (await migrationStatus(url)).map(({ state }) => state)
      t.strictSame(
        states,
        versions.map(() => 'applied')
      )
      t.strictSame(await migratePostgres({ url }), [], 'and is not run again')
    })

    t.test(
      'goes in through psql',
      { skip: lacks(!existsSync('/usr/bin/psql') && 'psql') },
      async (t) => {
        const empty = await server.createDatabase('empty')
        for (const version of versions)
          await runChild('psql', [
            '-1',
            '-X',
            '-q',
            '-v',
            'ON_ERROR_STOP=1',
            '-d',
            server.url(empty),
            '-f',
            join(folder, `${version}.sql`)
          ])
        const driver = await openPostgres({ url: server.url(empty) })
        t.strictSame(await driver.ping(), { migration: newest })
        await driver.close()
      }
    )

    await testRunner(t, server)
    await testOpening(t, server)
  })
)

async function testRunner(t: Test, server: PostgresServer) {
  t.test('the migrate runner applies each file once, however many run', async (t) => {
    const database = await server.createDatabase('empty')
    const url = server.url(database)
    t.strictSame(
      (await migrationStatus(url)).map(({ state }) => state),
      versions.map(() => 'pending')
    )
    const runs = await Promise.all([1, 2, 3, 4].map(() => migratePostgres({ url })))
    t.strictSame(runs.flat().sort(), versions)
    t.strictSame(
      await server.query(
        database,
        'select checksum from public.schema_migrations order by version'
      ),
      readMigrations('postgres').map(({ checksum }) => ({ checksum })),
      'and notes what the files were'
    )
    const status = await migrationStatus(url)
    t.strictSame(
      status.map(({ version, state }) => ({ version, state })),
      versions.map((version) => ({ version, state: 'applied' }))
    )
    t.ok(status.every(({ appliedAt }) => isTimestamp(appliedAt ?? '')))
    t.equal(await migrationSql(url), '')
    t.match(await migrationSql(), 'create table public.tenants')
  })

  t.test('the migrate runner refuses a file that was changed since', async (t) => {
    const database = await server.createDatabase()
    const url = server.url(database)
    await server.query(
      database,
      `update public.schema_migrations set checksum = 'other' where version = '${newest}'`
    )
    t.strictSame((await migrationStatus(url)).at(-1)?.state, 'changed')
    await t.rejects(migratePostgres({ url }), { code: 'schema_outdated', message: newest })
    const warnings: string[] = []
    const driver = await openPostgres({ url, onWarning: (message) => warnings.push(message) })
    t.match(warnings, [`with other migrations of these names: ${newest}.`], 'the server warns')
    await driver.close()
  })

  t.test('a connection that breaks on the way leaves what is applied', async (t) => {
    const proxy = await startCutProxy(server.port)
    t.teardown(() => proxy.close())
    const url = server.url(await server.createDatabase('empty'))
    const broken = migratePostgres({ url: proxy.through(url), onApplied: () => proxy.cutAll() })
    await t.rejects(broken, { code: 'unavailable' })
    t.strictSame(await migratePostgres({ url }), versions.slice(1), 'the next goes on')
  })

  t.test('a role that may not read the migrations is told so', async (t) => {
    const database = await server.createDatabase()
    await server.query(database, 'create role stranger login')
    const url = server.url(database, 'stranger')
    await t.rejects(migrationStatus(url), { code: 'unavailable', message: /permission denied/ })
  })

  t.test('a migration that fails leaves nothing', async (t) => {
    const database = await server.createDatabase('empty')
    await server.query(database, 'create table public.encryption_keys ()', 'app')
    await t.rejects(migratePostgres({ url: server.url(database) }), {
      code: 'unavailable',
      message: /^The migration 20261123000000_init failed, .* already exists$/,
      cause: { code: '42P07' }
    })
    const [row] = await server.query(database, "select to_regclass('public.tenants') as tenants")
    t.strictSame(row, { tenants: null })
  })
}

async function testOpening(t: Test, server: PostgresServer) {
  t.test('insert_row knows the columns that the migrations made', async (t) => {
    const database = await server.createDatabase()
    const definition = () =>
      server.query(database, "select pg_get_functiondef('public.insert_row'::regproc) as text")
    const migrated = await definition()
    await server.query(database, 'select public.define_insert_row()')
    t.strictSame(await definition(), migrated, 'a migration that changes a table defines it anew')
  })

  t.test('columns of a newer release keep their defaults, unknown ones are refused', async (t) => {
    const database = await server.createDatabase()
    const insert = (row: object) => {
      const times = { created_at: '2026-01-01', updated_at: '2026-01-01' }
      const changes = [{ op: 'insert', resource: 'tenants', key: 'a', row: { ...times, ...row } }]
      return server.query(
        database,
        `select public.apply_changes('a', '${JSON.stringify(changes)}')->0 as stored`
      )
    }
    await t.rejects(insert({ name: 'A', plan: 'free' }), { code: '42703', message: /plan/ })
    await server.query(
      database,
      `alter table public.tenants add column plan text not null default 'free';
       select public.define_insert_row()`
    )
    t.match(await insert({ name: 'A' }), [{ stored: { name: 'A', plan: 'free' } }])
    await server.query(database, 'delete from public.tenants')
    t.match(await insert({ name: 'A', plan: 'paid' }), [{ stored: { plan: 'paid' } }])
  })

  t.test('a database without the schema is refused, with what it needs', async (t) => {
    const database = await server.createDatabase('empty')
    const url = server.url(database)
    const message = new RegExp(`${newest}.sql.*npm run migrate.*psql.*SQL editor.*supabase db push`)
    await t.rejects(openPostgres({ url }), { code: 'schema_outdated', message })
    const left = `select from pg_stat_activity
      where datname = '${database}' and application_name = 'workflow-api'`
    // And left alone: a connection that has been ended may still be there for a moment.
    while ((await server.query('postgres', left)).length) await sleep(5)
  })

  t.test('a database of an older release is refused, one of a newer is accepted', async (t) => {
    const database = await server.createDatabase()
    const url = server.url(database)
    const warnings: string[] = []
    await server.query(
      database,
      "insert into public.schema_migrations values ('29991231000000_later')"
    )
    const driver = await openPostgres({ url, onWarning: (message) => warnings.push(message) })
    t.strictSame(await driver.ping(), { migration: '29991231000000_later' })
    t.match(warnings, [/newer release: 29991231000000_later/])
    await driver.close()
    t.match((await migrationStatus(url)).at(-1), {
      version: '29991231000000_later',
      state: 'newer',
      appliedAt: /Z$/
    })
    await server.query(database, `delete from public.schema_migrations where version = '${newest}'`)
    await t.rejects(openPostgres({ url }), { code: 'schema_outdated', message: newest })
  })

  t.test('a role that row level security hides everything from is refused', async (t) => {
    const database = await server.createDatabase()
    await server.query(
      database,
      'create role reader login; grant select on all tables in schema public to reader'
    )
    await t.rejects(openPostgres({ url: server.url(database, 'reader') }), {
      code: 'unavailable',
      message: 'reader'
    })
  })

  t.test('a role of few privileges is told which it lacks, and serves with these', async (t) => {
    const database = await server.createDatabase()
    const url = server.url(database, 'clerk')
    const grant = (text: string) => server.query(database, text)
    await grant('create role clerk login bypassrls; revoke usage on schema public from public')
    const message = /^The role clerk lacks permissions: (.+)\.$/
    const error = await openPostgres({ url }).catch((error) => error)
    const [, grants = ''] = message.exec(error.message) ?? []
    for (const each of grants.split('; ')) {
      await t.rejects(openPostgres({ url }), { code: 'unavailable', message }, `without ${each}`)
      await grant(each)
    }
    const driver = await openPostgres({ url })
    const id = 't' as TenantId
    const row = { id, name: 'T' }
    const storage = createStorage(driver)
    await storage.commit({ tenant: id, changes: [{ op: 'insert', resource: tenants, row }] })
    t.match(await storage.get({ resource: tenants, tenant: id }, id), row)
    await grant('revoke select on flows from clerk')
    await t.rejects(storage.ping(), { message }, 'nor is it ready without')
    await grant('drop table llm_usage')
    await t.rejects(storage.ping(), { code: 'schema_outdated', message: 'restore it whole' })
    await storage.close()
  })

  t.test('a database that does not hold every text is refused', async (t) => {
    const options = "encoding 'LATIN1' locale 'C' template template0 owner app"
    await server.query('postgres', `create database latin ${options}`)
    const message = /^The database is encoded as LATIN1, .* encoding 'UTF8' template template0$/
    const url = server.url('latin')
    await t.rejects(migratePostgres({ url }), { code: 'unavailable', message })
    for (const { sql } of readMigrations('postgres')) await server.query('latin', sql, 'app')
    await t.rejects(openPostgres({ url }), { code: 'unavailable', message })
  })
}

t.test('the schema on Supabase', (t) =>
  withStack(t, startSupabase, async (project) => {
    await testPrivileges(t, project)
    await testWays(t, project)
  })
)

async function testPrivileges(t: Test, project: LocalSupabase) {
  const { server, database, url, legacyKeys } = project
  const [{ count } = { count: 0 }] = await server.query(
    database,
    `
    select count(*)::int from information_schema.role_table_grants
      where grantee = 'anon' and table_schema = 'public'`
  )
  t.equal(count, 0, 'nothing is granted to anon')
  await server.query(database, 'create table public.canary (id text)', 'app')

  for (const role of ['anon', 'authenticated'] as const)
    t.test(`${role} reaches nothing`, async (t) => {
      const [grants] = await server.query(
        database,
        `
        select
          has_table_privilege('${role}', 'public.canary', 'insert') as default_privileges,
          (select count(*)::int from pg_class where relnamespace = 'public'::regnamespace
            and relkind in ('r', 'v') and relname <> 'canary' and has_table_privilege('${role}', oid,
              'select, insert, update, delete, truncate, references, trigger')) as tables,
          (select count(*)::int from pg_class where relnamespace = 'public'::regnamespace
            and case relkind when 'S' then has_sequence_privilege('${role}', oid, 'usage, select, update') end) as sequences,
          (select count(*)::int from pg_proc where pronamespace = 'public'::regnamespace
            and has_function_privilege('${role}', oid, 'execute')) as functions`
      )
      t.strictSame(grants, { default_privileges: true, tables: 0, sequences: 0, functions: 0 })

      const client = createClient(url, legacyKeys[role])
      for (const table of [
        ...resources.map(({ name }) => name),
        'schema_migrations',
        'api_tables'
      ]) {
        const { error } = await client.from(table).select('*')
        t.equal(error?.code, '42501', `reading ${table}`)
      }
      for (const [name, input] of [
        ['apply_changes', { tenant: 'x', changes: [] }],
        ['read_page', { resource: 'flows', tenant: null, query: { limit: 1 } }],
        ['close_table', { table_name: 'flows' }],
        ['define_insert_row', {}],
        ['insert_row', { table_name: 'flows', new_row: {}, commit_version: 1 }],
        [
          'add_api_table',
          { table_name: 'x', key_column: 'id', scope_column: null, order_column: 'x' }
        ]
      ] as const) {
        const { error } = await client.rpc(name, input)
        t.equal(error?.code, '42501', `calling ${name}`)
      }
      await t.rejects(openSupabase({ url, key: legacyKeys[role] }), {
        code: 'unavailable',
        message: /permission/
      })
    })

  t.test('service_role reads, and writes through apply_changes only', async (t) => {
    const client = createClient(url, legacyKeys.service_role)
    for (const { name, key } of resources) {
      t.equal((await client.from(name).select('*')).error, null, `reading ${name}`)
      t.equal(
        (await client.from(name).insert({ [key]: 'x' })).error?.code,
        '42501',
        `insert into ${name}`
      )
      t.equal(
        (await client.from(name).update({ version: 1 }).eq(key, 'x')).error?.code,
        '42501',
        `update of ${name}`
      )
      t.equal(
        (await client.from(name).delete().eq(key, 'x')).error?.code,
        '42501',
        `delete from ${name}`
      )
    }
    for (const [table, column] of [
      ['schema_migrations', 'version'],
      ['api_tables', 'name']
    ] as const)
      t.equal((await client.from(table).delete().neq(column, 'x')).error?.code, '42501', table)
    const { error } = await client.rpc('close_table', { table_name: 'flows' })
    t.equal(error?.code, '42501', 'calling close_table')
  })

  t.test('apply_changes touches listed tables of its own tenant only', async (t) => {
    const client = createClient(url, legacyKeys.service_role)
    const system = '00000000-0000-0000-0000-000000000000'
    const apply = async (tenant: string | null, changes: unknown) =>
      (await client.rpc('apply_changes', { tenant, changes })).error?.code
    const change = { op: 'delete', resource: 'canary', key: 'x' }
    t.equal(await apply('a', [change]), 'PT400', 'a table that is not listed')
    t.equal(await apply('a', [{ ...change, resource: 'pg_catalog.pg_class' }]), 'PT400')
    t.equal(
      await apply(system, [{ ...change, resource: 'flows' }]),
      'PT400',
      'owned, without a tenant'
    )
    t.equal(await apply('a', [{ ...change, resource: 'encryption_keys' }]), 'PT400', 'of no tenant')
    t.equal(
      await apply('a', [{ ...change, resource: 'flows', op: 'truncate' }]),
      'PT400',
      'an operation'
    )
    t.equal(await apply('a', 'x'), 'PT400', 'no array')
    t.equal(await apply(null, []), 'PT400', 'no tenant')
    for (const set of [{ id: 'b' }, { tenant_id: 'b' }, { version: 1 }])
      t.equal(
        await apply('a', [{ ...change, resource: 'flows', op: 'update', set }]),
        'PT400',
        `keys and versions stay: ${Object.keys(set)}`
      )
    const row = {
      id: 'b',
      name: 'b',
      created_at: '2026-01-01',
      updated_at: '2026-01-01',
      version: 1
    }
    t.equal(await apply('a', [{ op: 'insert', resource: 'tenants', key: 'a', row }]), undefined)
    const { data } = await client.from('tenants').select('id, version')
    t.match(data, [{ id: 'a' }], 'the tenant is the one of the call')
    t.equal(await apply('a', []), undefined)
    t.equal(await apply('a', [{ op: 'delete', resource: 'tenants', key: 'a' }]), undefined)
  })
}

async function testWays(t: Test, { server, database, url, legacyKeys, keys }: LocalSupabase) {
  t.test(
    'a project of a newer release or an edited migration is accepted, one of an older is refused',
    async (t) => {
      const warnings: string[] = []
      const options = { url, key: keys.secret, onWarning: (each: string) => warnings.push(each) }
      const query = (sql: string) => server.query(database, sql)
      await query("insert into public.schema_migrations values ('29991231000000_later')")
      await query(
        `update public.schema_migrations set checksum = 'other' where version = '${newest}'`
      )
      await (await openSupabase(options)).close()
      t.match(warnings, [
        /newer release: 29991231000000_later/,
        `with other migrations of these names: ${newest}.`
      ])
      await query(
        `delete from public.schema_migrations where version in ('${newest}', '29991231000000_later')`
      )
      const message = new RegExp(
        `${newest}.sql.*npm run migrate.*psql.*SQL editor.*supabase db push`
      )
      await t.rejects(openSupabase(options), { code: 'schema_outdated', message })
      await query(`insert into public.schema_migrations values ('${newest}')`)
    }
  )

  t.test('keys of both kinds open the project, and nothing else does', async (t) => {
    for (const key of [legacyKeys.service_role, keys.secret])
      await (await openSupabase({ url, key })).close()
    for (const key of ['sb_secret_other', keys.publishable, 'nonsense'])
      await t.rejects(openSupabase({ url, key }), { code: 'unavailable' }, key)
  })

  const cli = process.env.SUPABASE_CLI
  t.test(
    'goes in through supabase db push',
    { skip: !cli && 'SUPABASE_CLI is not set' },
    async (t) => {
      const database = await server.createDatabase('empty')
      const project = await mkdtemp(join(tmpdir(), 'supabase-cli-'))
      t.teardown(() => rm(project, { recursive: true }))
      await mkdir(join(project, 'supabase', 'migrations'), { recursive: true })
      for (const version of versions)
        await copyFile(
          join(folder, `${version}.sql`),
          join(project, 'supabase', 'migrations', `${version}.sql`)
        )
      const push = [
        'db',
        'push',
        '--yes',
        '--workdir',
        project,
        '--db-url',
        `${server.url(database)}?sslmode=disable`
      ]
      await runChild(cli as string, push)
      t.strictSame(
        (await migrationStatus(server.url(database))).map(({ state }) => state),
        versions.map(() => 'applied')
      )
      await (await openPostgres({ url: server.url(database) })).close()
      t.match(await runChild(cli as string, push), /up to date/, 'and is not pushed again')
    }
  )
}
