import assert from 'node:assert/strict'
import type { Change, TenantId } from '../../../adapters/storage/port.js'
import { resources } from '../../../schemas/registry.js'
import type { AnyResource } from '../../../schemas/resource.js'
import { tenants } from '../../../schemas/tenants.js'
import {
  resourceNamed,
  sampleInserts,
  sampleKey,
  sampleRow,
  sampleUuid
} from '../../support/sample-rows.js'
import {
  AUDIT,
  assertFails,
  auditCount,
  auditInsert,
  baseOf,
  codesOf,
  createTenant,
  forEach,
  getRow,
  insertOf,
  isAlone,
  listKeys,
  owned,
  ownTargets,
  pick,
  rowsOf,
  seed,
  storeTargets,
  writer,
  writesTo
} from '../../support/stored-samples.js'
import type { StorageCase } from '../contract-case.js'

/** What the declarations promise: unique fields, references, cascades. */
export const constraintCases: readonly StorageCase[] = [
  {
    name: 'a key is taken once',
    rule: 'unique is unique',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      await forEach(resources, async (resource, base) => {
        const row = await seed(storage, resource, tenant, { n: base })
        const key = row[resource.key] as string
        const by = writer(resource, tenant, key)
        for (const { to } of resource.references)
          await seed(storage, resourceNamed(to), tenant, { n: base + 1 })
        const again = insertOf(resource, sampleRow(resource, base + 1, { [resource.key]: key }))
        const work = storage.commit({ tenant: by, changes: [again] })
        await assertFails(work, 'conflict', 'an insert', [resource.key])
        assert.deepEqual(await getRow(storage, resource, tenant, key), row, 'the first row stays')
      })
    }
  },
  {
    name: 'unique fields are taken once, in the tenant or everywhere, until they are given up',
    rule: 'unique is unique',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      const other = await createTenant(storage, 2)
      await forEach(resources, async (resource, base) => {
        for (const { fields, within } of resource.unique) {
          const first = base + 10 * resource.unique.findIndex((each) => each.fields === fields)
          const row = await seed(storage, resource, tenant, { n: first })
          const taken = Object.fromEntries(fields.map((field) => [field, row[field]]))
          const key = row[resource.key] as string
          const about = fields.join(', ')

          const elsewhere = seed(storage, resource, other, { n: first + 1, given: taken })
          if (within === 'everywhere')
            await assertFails(elsewhere, 'conflict', `${about}, elsewhere`, fields)
          else await elsewhere
          if (fields.includes(resource.key)) continue

          const inside = seed(storage, resource, tenant, { n: first + 2, given: taken })
          await assertFails(inside, 'conflict', `${about}, an insert`, fields)
          const second = await seed(storage, resource, tenant, { n: first + 3 })
          const secondKey = second[resource.key] as string
          const update = { op: 'update', resource, key: secondKey, set: taken } as const
          const by = writer(resource, tenant, secondKey)
          const work = storage.commit({ tenant: by, changes: [update] })
          await assertFails(work, 'conflict', `${about}, an update`, fields)

          const same = { op: 'update', resource, key, set: taken } as const
          await storage.commit({ tenant: writer(resource, tenant, key), changes: [same] })
          const change = { ...same, set: pick(sampleRow(resource, first + 4), fields) } as const
          await storage.commit({ tenant: writer(resource, tenant, key), changes: [change] })
          await storage.commit({ tenant: by, changes: [update] })
          await storage.commit({
            tenant: by,
            changes: [{ op: 'delete', resource, key: secondKey }]
          })
          await seed(storage, resource, tenant, { n: first + 5, given: taken })
        }
      })
    }
  },
  {
    name: 'one of many inserts of the same key at the same time',
    rule: 'unique is unique',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      await forEach(owned, async (resource, base) => {
        await storeTargets(storage, resource, tenant)
        const key = sampleKey(resource, base)
        const given = { ...ownTargets(resource), [resource.key]: key }
        const outcomes = await Promise.allSettled(
          Array.from({ length: 8 }, (_, i) => {
            const row = sampleRow(resource, base + i, given)
            const changes = [
              insertOf(resource, row),
              auditInsert(base + AUDIT + i, `race ${resource.name}`)
            ]
            return storage.commit({ tenant, changes })
          })
        )
        assert.deepEqual(codesOf(outcomes), [...Array(7).fill('conflict'), 'stored'])
        assert.equal(await auditCount(storage, tenant, `race ${resource.name}`), 1)
      })
    }
  },
  {
    name: 'a reference must lead to a row of the tenant',
    rule: 'references exist',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      await forEach(owned, async (resource, base) => {
        for (const { field, to } of resource.references) {
          const target = resourceNamed(to)
          const dangling = { [field]: sampleKey(target, 77) }
          const inserted = seed(storage, resource, tenant, { n: base, given: dangling })
          await assertFails(inserted, 'reference_missing', `${field}, an insert`, [field])
          const row = await seed(storage, resource, tenant, { n: base + 1 })
          const key = row[resource.key] as string
          const update = { op: 'update', resource, key, set: dangling } as const
          const work = storage.commit({ tenant, changes: [update] })
          await assertFails(work, 'reference_missing', `${field}, an update`, [field])
          assert.deepEqual(await getRow(storage, resource, tenant, key), row)

          const late = [...sampleInserts(resource, base + 2)].reverse()
          const reversed = storage.commit({ tenant, changes: late })
          await assertFails(reversed, 'reference_missing', `${field}, its target comes later`)
          const gone = sampleInserts(target, base + 3)
          const changes: Change[] = [
            ...gone,
            { op: 'delete', resource: target, key: sampleKey(target, base + 3) },
            insertOf(resource, sampleRow(resource, base + 3))
          ]
          const deleted = storage.commit({ tenant, changes })
          await assertFails(deleted, 'reference_missing', `${field}, its target just went`)
        }
      })
    }
  },
  {
    name: 'a row belongs to a tenant that exists',
    rule: 'references exist',
    async run({ open }) {
      const storage = await open()
      const nobody = sampleUuid(4711) as TenantId
      await forEach(owned, async (resource, base) => {
        if (resource.references.length) return
        const work = storage.commit({ tenant: nobody, changes: sampleInserts(resource, base) })
        await assertFails(work, 'reference_missing', 'no such tenant', ['tenant_id'])
      })
    }
  },
  {
    name: 'a target in use is not deleted',
    rule: 'targets stay',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      await forEach(owned, async (resource, base) => {
        for (const { field, to, onDelete } of resource.references) {
          if (onDelete !== 'restrict') continue
          const row = await seed(storage, resource, tenant, { n: base })
          const target = resourceNamed(to)
          const remove = { op: 'delete', resource: target, key: row[field] as string } as const
          const work = storage.commit({ tenant, changes: [remove] })
          await assertFails(work, 'reference_in_use', `${field} of ${resource.name}`)
          assert(await getRow(storage, target, tenant, row[field]), 'the target stays')
          assert(await getRow(storage, resource, tenant, row[resource.key]), 'the holder stays')
          const free = { op: 'delete', resource, key: row[resource.key] as string } as const
          await storage.commit({ tenant, changes: [free, remove] })
          assert.equal(await getRow(storage, target, tenant, row[field]), null)
        }
      })
    }
  },
  {
    name: 'rows go with the row they belong to, and only they',
    rule: 'deletes cascade',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      const other = await createTenant(storage, 2)
      await forEach(owned, async (resource, base) => {
        for (const { field, to, onDelete } of resource.references) {
          if (onDelete !== 'cascade') continue
          const target = resourceNamed(to)
          const belongs = await seed(storage, resource, tenant, { n: base })
          const stays = await seed(storage, resource, tenant, { n: base + 1 })
          const given = { [field]: belongs[field] }
          const tooKeys = [base + 2, base + 3].map((n) => sampleKey(resource, n))
          for (const n of [base + 2, base + 3]) await seed(storage, resource, tenant, { n, given })
          const equal = isAlone(target, target.key) && target.unique.length > 0
          const foreign = equal ? null : await seed(storage, resource, other, { n: base })
          const remove = { op: 'delete', resource: target, key: belongs[field] as string } as const
          await storage.commit({ tenant, changes: [remove] })
          for (const key of [belongs[resource.key], ...tooKeys])
            assert.equal(await getRow(storage, resource, tenant, key), null, `${key} is gone`)
          assert.deepEqual(await listKeys(storage, resource, tenant, { filter: given }), [])
          const left = await getRow(storage, resource, tenant, stays[resource.key])
          assert.deepEqual(left, stays, 'a row that belongs elsewhere stays')
          if (foreign)
            assert.deepEqual(
              await getRow(storage, resource, other, foreign[resource.key]),
              foreign,
              'the same row of another tenant stays'
            )
        }
      })
    }
  },
  {
    name: 'a tenant goes with everything it owns, and leaves the others alone',
    rule: 'deletes cascade',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      const other = await createTenant(storage, 2)
      for (const resource of owned) {
        await seed(storage, resource, tenant, { n: baseOf(resource) })
        await seed(storage, resource, other, { n: baseOf(resource) + 50 })
      }
      const before = await rowsOf(storage, other)
      const remove = { op: 'delete', resource: tenants as AnyResource, key: tenant } as const
      await storage.commit({ tenant, changes: [remove] })
      assert.equal(await getRow(storage, tenants, tenant, tenant), null)
      await forEach(owned, async (resource) => {
        assert.deepEqual(await listKeys(storage, resource, tenant), [])
      })
      assert.deepEqual(await rowsOf(storage, other), before)
      await createTenant(storage)
      for (const resource of owned) await seed(storage, resource, tenant, { n: baseOf(resource) })
    }
  },
  {
    name: 'a row that is not there is null to a read and not_found to a write',
    rule: 'missing is told',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      await forEach(resources, async (resource, base) => {
        const key = sampleKey(resource, base)
        assert.equal(await getRow(storage, resource, tenant, key), null)
        for (const change of writesTo(resource, key, 1))
          await assertFails(
            storage.commit({ tenant: writer(resource, tenant, key), changes: [change] }),
            'not_found',
            change.op
          )
      })
    }
  }
]
