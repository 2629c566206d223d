import assert from 'node:assert/strict'
import {
  ACROSS_TENANTS,
  type From,
  type Scope,
  type Storage,
  SYSTEM,
  type TenantId
} from '../../../adapters/storage/port.js'
import { resources } from '../../../schemas/registry.js'
import type { AnyResource } from '../../../schemas/resource.js'
import { tenants } from '../../../schemas/tenants.js'
import {
  resourceNamed,
  type SampleRow,
  sampleInserts,
  sampleKey,
  sampleRow
} from '../../support/sample-rows.js'
import {
  assertFails,
  baseOf,
  createTenant,
  FIRST,
  flows,
  forEach,
  getRow,
  insertOf,
  instant,
  keysOf,
  listKeys,
  matching,
  newValues,
  owned,
  type Stored,
  seed,
  sinceStart,
  sortRows,
  TARGETS,
  walk,
  walkKeys,
  writesTo
} from '../../support/stored-samples.js'
import type { StorageCase } from '../contract-case.js'

/** Who sees and writes whose rows. */
export const tenantCases: readonly StorageCase[] = [
  {
    name: 'no read shows a row of another tenant',
    rule: 'tenants are apart',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      const other = await createTenant(storage, 2)
      await forEach(owned, async (resource, base) => {
        const row = await seed(storage, resource, other, { n: base })
        const key = row[resource.key] as string
        assert.equal(await getRow(storage, resource, tenant, key), null, 'get')
        assert.deepEqual(await listKeys(storage, resource, tenant), [], 'list')
        const query = { limit: 1, count: 'exact' } as const
        const { total } = await storage.list({ resource, tenant }, query)
        assert.equal(total, 0, 'count')
        for (const field of resource.filters) {
          const filter = { [field]: row[field] }
          const found = await storage.list({ resource, tenant }, { ...query, filter })
          assert.deepEqual(found, { rows: [], next: null, total: 0 }, `filter by ${field}`)
        }
      })
      assert.equal(await storage.get({ resource: tenants, tenant }, other), null)
      assert.deepEqual(await listKeys(storage, tenants, tenant), [tenant])
    }
  },
  {
    name: 'no write reaches a row of another tenant',
    rule: 'tenants are apart in writes',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      const other = await createTenant(storage, 2)
      await forEach(owned, async (resource, base) => {
        const row = await seed(storage, resource, other, { n: base })
        const key = row[resource.key] as string
        for (const change of writesTo(resource, key, row.version as number)) {
          const work = storage.commit({ tenant, changes: [change] })
          await assertFails(work, 'not_found', change.op)
        }
        for (const { field } of resource.references) {
          const given = { [field]: row[field] }
          const work = seed(storage, resource, tenant, { n: base + 1, given })
          await assertFails(work, 'reference_missing', field, [field])
        }
        assert.deepEqual(await getRow(storage, resource, other, key), row)
      })
      const rename = {
        op: 'update',
        resource: tenants as AnyResource,
        key: other,
        set: { name: 'x' }
      } as const
      await assertFails(storage.commit({ tenant, changes: [rename] }), 'not_found', 'a tenant')
    }
  },
  {
    name: 'two tenants have rows of equal keys',
    rule: 'tenants are apart in writes',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      const other = await createTenant(storage, 2)
      await forEach(owned, async (resource, base) => {
        if (hasGlobalKey(resource)) return
        const given = await globalTargets(storage, resource, [tenant, other])
        const mine = await seed(storage, resource, tenant, {
          n: base,
          given: given[0] as SampleRow
        })
        const theirs = await seed(storage, resource, other, {
          n: base,
          given: given[1] as SampleRow
        })
        const key = mine[resource.key] as string
        assert.equal(theirs[resource.key], key)
        assert.equal(theirs.tenant_id, other)
        const set = newValues(resource, base + 1)
        await storage.commit({ tenant, changes: [{ op: 'update', resource, key, set }] })
        assert.deepEqual(await getRow(storage, resource, other, key), theirs)
        await storage.commit({ tenant, changes: [{ op: 'delete', resource, key }] })
        assert.deepEqual(await getRow(storage, resource, other, key), theirs)
        assert.equal(await getRow(storage, resource, tenant, key), null)
      })
    }
  },
  {
    name: 'rows of all tenants, in one order, where a key names one row',
    rule: 'crossing sees all',
    async run({ open }) {
      const storage = await open()
      const all = await Promise.all([1, 2, 3].map((n) => createTenant(storage, n)))
      await forEach(owned.filter(hasGlobalKey), async (resource, base) => {
        const from: From<AnyResource> = { resource, tenant: ACROSS_TENANTS }
        const rows: Stored[] = []
        for (const n of [0, 1, 2, 3, 4, 5, 6, 7]) {
          const tenant = all[n % 3] as TenantId
          rows.push(await seed(storage, resource, tenant, { n: base + n, at: instant(n % 2) }))
        }
        for (const order of ['asc', 'desc'] as const)
          for (const limit of [1, 3, 1000]) {
            const query = { ...sinceStart, order, limit, count: 'exact' } as const
            const seen: Stored[] = []
            for await (const page of walk(storage, resource, ACROSS_TENANTS, query)) {
              assert.equal(page.total, rows.length, 'counted')
              seen.push(...page.rows)
            }
            assert.deepEqual(seen, sortRows(resource, rows, order), `${order}, limit ${limit}`)
          }
        for (const row of rows) {
          assert.deepEqual(await storage.get(from, row[resource.key] as string), row)
          for (const field of resource.filters) {
            const filter = { [field]: row[field] }
            const found = await walkKeys(storage, resource, ACROSS_TENANTS, { filter, limit: 2 })
            const expected = sortRows(resource, matching(rows, filter), 'desc')
            assert.deepEqual(found, keysOf(resource, expected), `by ${field}`)
          }
        }
        assert.equal(await storage.get(from, sampleKey(resource, base + 99)), null)
      })
      const listed = await walkKeys(storage, tenants, ACROSS_TENANTS, { order: 'asc', limit: 2 })
      assert.deepEqual(listed, all)
    }
  },
  {
    name: 'a resource whose keys two tenants may share is read in each tenant',
    rule: 'crossing sees all',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      await forEach(owned, async (resource, base) => {
        if (hasGlobalKey(resource)) return
        const row = await seed(storage, resource, tenant, { n: base })
        const from: From<AnyResource> = { resource, tenant: ACROSS_TENANTS }
        await assert.rejects(storage.get(from, row[resource.key] as string), TypeError)
        await assert.rejects(storage.list(from, { limit: 1 }), TypeError)
      })
    }
  },
  {
    name: 'rows of no tenant are read and written as SYSTEM only',
    rule: 'system has its own',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      const system = resources.filter(({ tenancy }) => tenancy === 'system')
      assert(system.includes(encryptionKeys))
      await forEach(system, async (resource, base) => {
        const row = await seed(storage, resource, tenant, { n: base })
        const key = row[resource.key] as string
        assert.deepEqual(await storage.get({ resource, tenant: SYSTEM }, key), row)
        assert.deepEqual(await listKeys(storage, resource, SYSTEM), [key])
        for (const scope of [tenant, ACROSS_TENANTS] as Scope[]) {
          const from: From<AnyResource> = { resource, tenant: scope }
          await assert.rejects(storage.get(from, key), TypeError)
          await assert.rejects(storage.list(from, { limit: 1 }), TypeError)
        }
        const insert = insertOf(resource, sampleRow(resource, base + 1))
        await assert.rejects(storage.commit({ tenant, changes: [insert] }), TypeError)
        assert.deepEqual(await listKeys(storage, resource, SYSTEM), [key])
      })
      const changes = sampleInserts(flows, FIRST)
      await assert.rejects(storage.commit({ tenant: SYSTEM, changes }), TypeError)
      assert.deepEqual(await listKeys(storage, flows, SYSTEM), [])
    }
  }
]

const encryptionKeys = resourceNamed('encryption_keys')

/** Whether no two tenants may have rows of equal keys. */
function hasGlobalKey({ unique, key }: AnyResource): boolean {
  return unique.some(({ fields, within }) => within === 'everywhere' && fields.includes(key))
}

/** References for each tenant where targets cannot have equal keys; nothing where they can. */
async function globalTargets(
  storage: Storage,
  resource: AnyResource,
  all: readonly TenantId[]
): Promise<SampleRow[]> {
  const found: SampleRow[] = all.map(() => ({}))
  for (const { field, to } of resource.references) {
    const target = resourceNamed(to)
    for (const [i, tenant] of all.entries()) {
      const n = baseOf(resource) + TARGETS + (hasGlobalKey(target) ? i : 0)
      await seed(storage, target, tenant, { n, at: instant(-500) })
      ;(found[i] as SampleRow)[field] = sampleKey(target, n)
    }
  }
  return found
}
