import { randomUUID } from 'node:crypto'
import t, { type Test } from 'tap'
import { packageFile } from '../../adapters/package-files.js'
import { ACROSS_TENANTS, SYSTEM, type TenantId } from '../../adapters/storage/port.js'
import { createStorage } from '../../adapters/storage/storage.js'
import { openSupabase } from '../../adapters/storage/supabase.js'
import { audit } from '../../schemas/audit.js'
import { encryptionKeys } from '../../schemas/encryption-keys.js'
import { flows } from '../../schemas/flows.js'
import { idempotencyKeys } from '../../schemas/idempotency-keys.js'
import { leases } from '../../schemas/leases.js'
import { secrets } from '../../schemas/secrets.js'
import { tenants } from '../../schemas/tenants.js'
import { users } from '../../schemas/users.js'
import { runChild } from '../support/child-process.js'
import { withStack } from '../support/postgres-stack.js'
import { snapshotOf } from '../support/snapshot.js'
import { type LocalSupabase, startSupabase } from '../support/supabase-stack.js'
import { adminOf } from '../support/tidy-identity.js'

interface TestFile {
  readonly path: string
  /** How the project is reached, where not by its address and a key of now. */
  readonly by?: readonly ('legacy' | 'database')[]
  /** How the names of its tests begin that run, where not all do. */
  readonly only?: readonly string[]
}

/**
 * The tests as they run against a project of somebody: here it is one of local parts, started
 * apart. All of these run elsewhere, too, so that of the long files those are enough that make what
 * no tenant owns, or look past their own tenants.
 */
const files: readonly TestFile[] = [
  { path: 'test/api/users.test.ts', by: ['legacy'] },
  { path: 'test/api/auth.test.ts', by: ['database'] },
  { path: 'test/api/encryption-keys.test.ts' },
  { path: 'test/api/retention.test.ts' },
  {
    path: 'test/identity/supabase-faults.test.ts',
    only: [
      'a user is made',
      'a user is changed',
      'a user is removed',
      'accounts that are not ours to take',
      'answers that come late, or never',
      'two at once'
    ]
  },
  {
    path: 'test/contract/supabase.test.ts',
    by: ['legacy', 'database'],
    only: [
      'counts are exact',
      'crossing sees all',
      'deletes cascade',
      'filters hold',
      'lists are sorted',
      'missing is told',
      'pages are stable',
      'persistence is as stated',
      'system has its own',
      'tenants are apart',
      'tenants are apart in writes',
      'ties go by key',
      'unique is unique'
    ]
  }
]

t.test('a project that others use', (t) =>
  withStack(t, startSupabase, async (project) => {
    const { url, key, legacyKeys, server, database } = project
    const tenant = randomUUID() as TenantId
    await t.test('what the project has already', (t) => moveIn(t, project, tenant))
    const before = await inventory(project, tenant)
    t.equal(before.accounts.length, 1)

    for (const { path, by = [], only = [] } of files)
      await t.test(`${path} passes there`, async (t) => {
        const { PATH = '' } = process.env
        const env = {
          PATH,
          CI: 'true',
          TAP_TIMEOUT: '600',
          ...(only.length ? { TAP_GREP: `.\n^(${only.join('|')})` } : {}),
          TEST_STORAGE: 'supabase',
          SUPABASE_TEST_URL: url,
          SUPABASE_TEST_SERVICE_ROLE_KEY: by.includes('legacy') ? legacyKeys.service_role : key,
          ...(by.includes('database') ? { SUPABASE_TEST_DB_URL: server.url(database) } : {})
        }
        const program = packageFile(path).pathname
        const output = await runChild(process.execPath, ['--import', 'tsx', program], { env })
        t.match(output, /^# \{ total: \d+, pass: \d+(, skip: \d+)? \}$/m)
        t.notMatch(output, /# SKIP(?! filter: )/)
        for (const name of only)
          t.match(
            output,
            new RegExp(`^ +ok \\d+ - ${name}(: .*)? # time=`, 'm'),
            'none was renamed'
          )
      })

    t.strictSame(await inventory(project, tenant), before, 'and leave what they found')
  })
)

/**
 * Somebody else’s tenant and user, with an encryption key that these tests do not know, rows that
 * have had their time, and a server that prunes.
 */
async function moveIn(t: Test, { url, key }: LocalSupabase, tenant: TenantId) {
  const storage = createStorage(await openSupabase({ url, key }))
  const email = 'owner@example.com'
  const { data } = await adminOf({ url, key }).createUser({ email, email_confirm: true })
  const id = data.user?.id as string
  await storage.commit({
    tenant,
    changes: [
      { op: 'insert', resource: tenants, row: { id: tenant, name: 'Somebody else' } },
      { op: 'insert', resource: users, row: { id, email, name: 'Owner', role: 'admin' } },
      { op: 'insert', resource: flows, row: { id: 'theirs', name: 'F', status: 'draft' } },
      {
        op: 'insert',
        resource: secrets,
        row: { name: 'THEIRS', ciphertext: 'AAAA', key_id: 'default' }
      }
    ]
  })
  const year = '2020-01-01T00:00:00.000Z'
  const about = { actor: id, action: 'flow.create', resource: 'flows', resource_id: 'theirs' }
  const over = { id: 'theirs', request_digest: '', resource_id: 'theirs', expires_at: year }
  await storage.commit({
    tenant,
    changes: [
      { op: 'insert', resource: audit, row: { id: randomUUID(), ...about, fields: [], at: year } },
      { op: 'insert', resource: idempotencyKeys, row: over }
    ]
  })
  const lease = { id: 'retention', expires_at: '2026-06-01T12:30:00.000Z' }
  await storage.commit({
    tenant: SYSTEM,
    changes: [
      { op: 'insert', resource: encryptionKeys, row: { id: 'default', canary: 'AAAA' } },
      { op: 'insert', resource: leases, row: lease }
    ]
  })
  await storage.close()
  t.ok(id)
}

/** All that is in the project. */
async function inventory({ url, key }: LocalSupabase, tenant: TenantId) {
  const storage = createStorage(await openSupabase({ url, key }))
  const { rows } = await storage.list(
    { resource: tenants, tenant: ACROSS_TENANTS },
    { limit: 1000 }
  )
  const ofNoTenant = [
    await storage.list({ resource: encryptionKeys, tenant: SYSTEM }, { limit: 1000 }),
    await storage.list({ resource: leases, tenant: SYSTEM }, { limit: 1000 })
  ].map((page) => page.rows)
  const { data } = await adminOf({ url, key }).listUsers({ page: 1, perPage: 1000 })
  const theirs = await snapshotOf(storage, tenant)
  await storage.close()
  return { tenants: rows, ofNoTenant, accounts: data.users, theirs }
}
