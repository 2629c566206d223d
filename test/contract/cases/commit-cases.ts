import assert from 'node:assert/strict'
import type { StorageErrorCode } from '../../../adapters/storage/errors.js'
import type { Change, Storage, TenantId } from '../../../adapters/storage/port.js'
import { audit } from '../../../schemas/audit.js'
import { resources } from '../../../schemas/registry.js'
import type { AnyResource } from '../../../schemas/resource.js'
import { tenants } from '../../../schemas/tenants.js'
import { resourceNamed, sampleInserts, sampleKey, sampleRow } from '../../support/sample-rows.js'
import {
  AUDIT,
  assertFails,
  auditCount,
  auditInsert,
  baseOf,
  codesOf,
  createTenant,
  FIRST,
  flows,
  forEach,
  getRow,
  insertOf,
  listKeys,
  newValues,
  owned,
  pick,
  rowsOf,
  type Stored,
  seed,
  templates,
  writer,
  writesTo
} from '../../support/stored-samples.js'
import type { StorageCase } from '../contract-case.js'

/** Changes are stored whole, once, and with their audit entries. */
export const commitCases: readonly StorageCase[] = [
  {
    name: 'a change that expects another version does nothing',
    rule: 'expect holds',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      await forEach(resources, async (resource, base) => {
        const first = await seed(storage, resource, tenant, { n: base })
        const key = first[resource.key] as string
        const by = writer(resource, tenant, key)
        const set = newValues(resource, base + 1)
        const fresh = first.version as number
        const update = { op: 'update', resource, key, set } as const
        const changes = [{ ...update, expect: fresh }]
        const [second] = (await storage.commit({ tenant: by, changes })) as [Stored]
        assert((second.version as number) > fresh, 'the version grows')
        for (const expect of [fresh, (second.version as number) + 1])
          for (const change of writesTo(resource, key, expect)) {
            const work = storage.commit({ tenant: by, changes: [change] })
            await assertFails(work, 'stale', `${change.op} of version ${expect}`)
          }
        assert.deepEqual(await getRow(storage, resource, tenant, key), second, 'nothing happened')
        const remove = { op: 'delete', resource, key, expect: second.version as number } as const
        await storage.commit({ tenant: by, changes: [remove] })
        assert.equal(await getRow(storage, resource, tenant, key), null)
      })
    }
  },
  {
    name: 'of many updates that expect the same version one wins, and the losers leave no trace',
    rule: 'expect holds',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      await forEach(owned, async (resource, base) => {
        const { key, version } = await seedForRace(storage, resource, tenant)
        const outcomes = await Promise.allSettled(
          Array.from({ length: 16 }, (_, i) => {
            const set = newValues(resource, base + 1 + i)
            const changes: Change[] = [
              auditInsert(base + AUDIT + i, `race ${key}`),
              { op: 'update', resource, key, expect: version, set }
            ]
            return storage.commit({ tenant, changes })
          })
        )
        assert.deepEqual(codesOf(outcomes), [...Array(15).fill('stale'), 'stored'])
        const winner = outcomes.findIndex(({ status }) => status === 'fulfilled')
        const won = newValues(resource, base + 1 + winner)
        const after = await getRow(storage, resource, tenant, key)
        assert.deepEqual(pick(after as Stored, Object.keys(won)), won, 'what the winner wrote')
        assert.equal(await auditCount(storage, tenant, `race ${key}`), 1, 'one audit entry')
      })
    }
  },
  {
    name: 'a checked row must be at its version, and is not changed',
    rule: 'check holds',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      // One that belongs to no tenant guards what is done in one.
      const checkable = resources.filter(({ tenancy }) => tenancy !== 'root')
      await forEach(checkable, async (resource, base) => {
        const row = await seed(storage, resource, tenant, { n: base })
        const key = row[resource.key] as string
        const version = row.version as number
        const entry = auditInsert(base + AUDIT, `check ${resource.name}`)
        const check = { op: 'check', resource, key, expect: version } as const
        const late = [entry, { ...check, expect: version + 1 }]
        await assertFails(storage.commit({ tenant, changes: late }), 'stale', 'another version')
        assert.equal(await auditCount(storage, tenant, `check ${resource.name}`), 0)
        const [checked, written] = await storage.commit({ tenant, changes: [check, entry] })
        assert.equal(checked, null, 'a check returns null')
        assert.equal((written as Stored).resource_id, `check ${resource.name}`)
        assert.deepEqual(await getRow(storage, resource, tenant, key), row, 'unchanged')
      })
    }
  },
  {
    name: 'of many commits that check and change the same row one wins',
    rule: 'check holds',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      const flow = await seed(storage, flows, tenant, { n: FIRST })
      const key = flow.id as string
      const outcomes = await Promise.allSettled(
        Array.from({ length: 12 }, (_, i) =>
          storage.commit({
            tenant,
            changes: [
              { op: 'check', resource: flows, key, expect: flow.version as number },
              auditInsert(3000 + i, 'checked'),
              { op: 'update', resource: flows, key, set: { name: `name ${i}` } }
            ]
          })
        )
      )
      assert.deepEqual(codesOf(outcomes), [...Array(11).fill('stale'), 'stored'])
      assert.equal(await auditCount(storage, tenant, 'checked'), 1)
    }
  },
  {
    name: 'the last change fails and none is stored',
    rule: 'commits are whole',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      const kept: Record<string, Stored> = {}
      for (const resource of owned)
        kept[resource.name] = await seed(storage, resource, tenant, { n: baseOf(resource) })
      const leaf = owned.filter(({ name }) => !owned.some((each) => refersTo(each, name)))
      const before = await rowsOf(storage, tenant)
      const changes: Change[] = [
        ...owned.flatMap((resource) => {
          const key = (kept[resource.name] as Stored)[resource.key] as string
          const set = newValues(resource, FIRST + 60)
          return [{ op: 'update', resource, key, set }] as const
        }),
        ...owned.flatMap((resource) => sampleInserts(resource, baseOf(resource) + 30)),
        ...leaf.map((resource) => {
          const key = (kept[resource.name] as Stored)[resource.key] as string
          return { op: 'delete', resource, key } as const
        })
      ]
      const used = (kept.flows as Stored).template_id as string
      const failures: [StorageErrorCode, Change][] = [
        ['not_found', { op: 'delete', resource: flows, key: 'nothing' }],
        [
          'stale',
          { op: 'check', resource: flows, key: (kept.flows as Stored).id as string, expect: 1 }
        ],
        ['conflict', insertOf(flows, sampleRow(flows, 0, { id: (kept.flows as Stored).id }))],
        ['reference_missing', insertOf(flows, sampleRow(flows, 0, { template_id: 'nothing' }))],
        ['reference_in_use', { op: 'delete', resource: templates, key: used }]
      ]
      for (const [code, last] of failures) {
        const work = storage.commit({ tenant, changes: [...changes, last] })
        await assertFails(work, code, `the last change is a ${last.op}`)
        assert.deepEqual(await rowsOf(storage, tenant), before, `${code}: nothing is stored`)
      }
      await storage.commit({ tenant, changes })
      assert.notDeepEqual(await rowsOf(storage, tenant), before, 'without it, all are')
    }
  },
  {
    name: 'what a failed commit undid can be done again, unique values and filters included',
    rule: 'commits are whole',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      const failing = { op: 'delete', resource: flows, key: 'nothing' } as const
      await forEach(owned, async (resource, base) => {
        const inserts = sampleInserts(resource, base)
        const work = storage.commit({ tenant, changes: [...inserts, failing] })
        await assertFails(work, 'not_found', 'an insert')
        await storage.commit({ tenant, changes: inserts })
        const key = sampleKey(resource, base)
        const row = await getRow(storage, resource, tenant, key)
        const remove = { op: 'delete', resource, key } as const
        await assertFails(
          storage.commit({ tenant, changes: [remove, failing] }),
          'not_found',
          'a delete'
        )
        assert.deepEqual(await getRow(storage, resource, tenant, key), row)
        for (const field of resource.filters) {
          const filter = { [field]: (row as Stored)[field] }
          const keys = await listKeys(storage, resource, tenant, { filter })
          assert(keys.includes(key), `still found by ${field}`)
        }
        const again = storage.commit({ tenant, changes: [inserts.at(-1) as Change] })
        await assertFails(again, 'conflict', 'the key is still taken', [resource.key])
        for (const [i, { fields }] of resource.unique.entries()) {
          if (fields.includes(resource.key)) continue
          const n = base + 10 * (i + 1)
          const given = pick(row as Stored, fields)
          const deleted = seed(storage, resource, tenant, { n, given })
          await assertFails(deleted, 'conflict', `${fields} of a row to be deleted`, fields)
          const set = pick(sampleRow(resource, n + 1), fields)
          const update = { op: 'update', resource, key, set } as const
          const work = storage.commit({ tenant, changes: [update, failing] })
          await assertFails(work, 'not_found', 'an update')
          const updated = seed(storage, resource, tenant, { n, given })
          await assertFails(updated, 'conflict', `${fields} of a row to be updated`, fields)
          await seed(storage, resource, tenant, { n: n + 2, given: set })
        }
      })
    }
  },
  {
    name: 'what was to go along with a row stays when the commit fails',
    rule: 'commits are whole',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      const removes: Change[] = [{ op: 'delete', resource: tenants as AnyResource, key: tenant }]
      for (const resource of owned) {
        const row = await seed(storage, resource, tenant, { n: baseOf(resource) })
        for (const { field, to, onDelete } of resource.references) {
          const target = { resource: resourceNamed(to), key: row[field] as string }
          if (onDelete === 'cascade') removes.push({ op: 'delete', ...target })
        }
      }
      const before = await rowsOf(storage, tenant)
      const failing = { op: 'delete', resource: flows, key: 'nothing' } as const
      for (const remove of removes) {
        const work = storage.commit({ tenant, changes: [remove, failing] })
        await assertFails(work, 'not_found', remove.resource.name)
        assert.deepEqual(await rowsOf(storage, tenant), before, remove.resource.name)
      }
    }
  },
  {
    name: 'of many inserts at once each is stored or refused by itself, and gets its own row',
    rule: 'commits are whole',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      const inserts = Array.from({ length: 80 }, (_, i) => {
        // Two of each eight have one key, and a third refers to nothing.
        if (i % 8 === 5)
          return insertOf(flows, sampleRow(flows, FIRST + i, { template_id: 'nothing' }))
        return insertOf(templates, sampleRow(templates, FIRST + (i % 8 === 4 ? i - 3 : i)))
      })
      const outcomes = await Promise.allSettled(
        inserts.map((insert, i) =>
          storage.commit({ tenant, changes: [auditInsert(AUDIT + i, 'at once'), insert] })
        )
      )
      const refused = [...Array(10).fill('conflict'), ...Array(10).fill('reference_missing')]
      assert.deepEqual(codesOf(outcomes), [...refused, ...Array(60).fill('stored')])
      const versions = new Set<unknown>()
      for (const [i, outcome] of outcomes.entries()) {
        if (outcome.status === 'rejected') continue
        const [entry, row] = outcome.value as [Stored, Stored]
        assert.equal(entry.id, sampleKey(audit, AUDIT + i), 'its own entry')
        assert.deepEqual(await getRow(storage, templates, tenant, inserts[i]?.row.id), row)
        versions.add(row.version)
      }
      assert.equal(versions.size, 60, 'a version each')
      assert.equal(await auditCount(storage, tenant, 'at once'), 60)
      assert.deepEqual(
        await listKeys(storage, flows, tenant),
        [],
        'what is refused leaves no trace'
      )
    }
  },
  {
    name: 'changes apply in their order, each to what the one before left',
    rule: 'commits are whole',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      await forEach(owned, async (resource, base) => {
        const key = sampleKey(resource, base)
        const set = newValues(resource, base + 1)
        const inserts = sampleInserts(resource, base)
        const rows = await storage.commit({
          tenant,
          changes: [
            ...inserts,
            { op: 'update', resource, key, set },
            { op: 'delete', resource, key },
            inserts.at(-1) as Change,
            { op: 'update', resource, key, set }
          ]
        })
        const [inserted, updated, deleted, again, last] = rows.slice(-5) as (Stored | null)[]
        assert.equal(deleted, null, 'a delete returns null')
        assert(inserted && updated && again, 'an insert and an update return rows')
        assert.deepEqual(await getRow(storage, resource, tenant, key), last)
      })
    }
  },
  {
    name: 'a commit without changes',
    rule: 'commits are whole',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      assert.deepEqual(await storage.commit({ tenant, changes: [] }), [])
      const failing = { op: 'delete', resource: flows, key: 'nothing' } as const
      const changes = [...sampleInserts(flows, 1), failing]
      await assertFails(storage.commit({ tenant, changes }), 'not_found', 'the last of three')
      assert.equal(await getRow(storage, flows, tenant, sampleKey(flows, 1)), null)
    }
  },
  {
    name: 'the entry is stored with the change',
    rule: 'audit goes along',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      await forEach(owned, async (resource, base) => {
        const inserts = sampleInserts(resource, base)
        const key = sampleKey(resource, base)
        const first = base + AUDIT
        const id = `audited ${resource.name}`
        const set = newValues(resource, base + 1)
        await storage.commit({ tenant, changes: [...inserts, auditInsert(first, id)] })
        assert.equal(await auditCount(storage, tenant, id), 1, 'of an insert')
        const update = { op: 'update', resource, key, set } as const
        await storage.commit({ tenant, changes: [update, auditInsert(first + 1, id)] })
        assert.equal(await auditCount(storage, tenant, id), 2, 'of an update')
        const remove = { op: 'delete', resource, key } as const
        await storage.commit({ tenant, changes: [remove, auditInsert(first + 2, id)] })
        assert.equal(await auditCount(storage, tenant, id), 3, 'of a delete')
      })
    }
  },
  {
    name: 'an entry that cannot be stored undoes the change',
    rule: 'audit goes along',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      const taken = auditInsert(1, 'taken')
      await storage.commit({ tenant, changes: [taken] })
      await forEach(owned, async (resource, base) => {
        const kept = await seed(storage, resource, tenant, { n: base + 1 })
        const key = kept[resource.key] as string
        const set = newValues(resource, base + 2)
        const inserts = sampleInserts(resource, base)
        const writes: Change[][] = [
          inserts,
          [{ op: 'update', resource, key, set }],
          [{ op: 'delete', resource, key }]
        ]
        for (const changes of writes) {
          const work = storage.commit({ tenant, changes: [...changes, taken] })
          await assertFails(work, 'conflict', 'the entry', ['id'])
        }
        assert.equal(await getRow(storage, resource, tenant, sampleKey(resource, base)), null)
        assert.deepEqual(await getRow(storage, resource, tenant, key), kept)
      })
    }
  },
  {
    name: 'a key that is used again gets a version that it never had',
    rule: 'versions grow',
    async run({ open, reopen, persistent }) {
      let storage = await open()
      const tenant = await createTenant(storage)
      await forEach(owned, async (resource, base) => {
        let last = 0
        const inserts = sampleInserts(resource, base)
        const key = sampleKey(resource, base)
        await storage.commit({ tenant, changes: inserts.slice(0, -1) })
        const insert = inserts.at(-1) as Change
        const update = { op: 'update', resource, key, set: newValues(resource, base + 1) } as const
        async function assertGrows(change: Change) {
          const [row] = await storage.commit({ tenant, changes: [change] })
          const version = (row as Stored).version as number
          assert(version > last, `${change.op}: ${version} after ${last}`)
          last = version
        }
        for (let round = 0; round < 3; round++) {
          await assertGrows(insert)
          await assertGrows(update)
          const stale = last
          await storage.commit({ tenant, changes: [{ op: 'delete', resource, key }] })
          if (persistent && round === 1) storage = await reopen(storage)
          await assertGrows(insert)
          const late = storage.commit({ tenant, changes: [{ ...update, expect: stale }] })
          await assertFails(late, 'stale', 'the version of the row before')
          await storage.commit({ tenant, changes: [{ op: 'delete', resource, key }] })
        }
      })
    }
  },
  {
    name: 'of many commits that change a row at once, the last to change it has the last version',
    rule: 'versions grow',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      const { id: key } = await seed(storage, flows, tenant, { n: FIRST })
      // What comes first in a commit must not decide its version before the row is waited for.
      const outcomes = await Promise.all(
        Array.from({ length: 8 }, (_, i) =>
          storage.commit({
            tenant,
            changes: [
              auditInsert(AUDIT + i, 'raced'),
              { op: 'update', resource: flows, key: key as string, set: { name: `name ${i}` } }
            ]
          })
        )
      )
      const updated = outcomes.map(([, row]) => row as Stored)
      updated.sort((a, b) => (a.version as number) - (b.version as number))
      assert.deepEqual(await getRow(storage, flows, tenant, key), updated.at(-1))
    }
  },
  {
    name: 'all rows that a commit writes have its version, and no other commit has it',
    rule: 'a commit has one version',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      const used = new Set<unknown>()
      await forEach(owned, async (resource, base) => {
        const inserts = sampleInserts(resource, base)
        const key = sampleKey(resource, base)
        const update = { op: 'update', resource, key, set: newValues(resource, base + 1) } as const
        const entry = auditInsert(base + AUDIT, 'one version')
        for (const changes of [
          inserts,
          [update, entry],
          [auditInsert(base + AUDIT + 1, ''), update]
        ]) {
          const rows = (await storage.commit({ tenant, changes })) as Stored[]
          const [version, ...others] = new Set(rows.map((row) => row.version))
          assert.deepEqual(others, [], 'one version')
          assert(!used.has(version), `${version} is new`)
          used.add(version)
        }
        const row = await getRow(storage, resource, tenant, key)
        const stored = await getRow(storage, audit, tenant, sampleKey(audit, base + AUDIT + 1))
        assert.equal(row?.version, stored?.version, 'as stored, too')
      })
    }
  },
  {
    name: 'a tenant that is made again does not match what was read before',
    rule: 'versions grow',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      const before = await seed(storage, flows, tenant, { n: FIRST })
      const remove = { op: 'delete', resource: tenants as AnyResource, key: tenant } as const
      await storage.commit({ tenant, changes: [remove] })
      await createTenant(storage)
      const after = await seed(storage, flows, tenant, { n: FIRST })
      assert((after.version as number) > (before.version as number))
    }
  }
]

function refersTo(resource: AnyResource, name: string): boolean {
  return resource.references.some(({ to }) => to === name)
}

async function seedForRace(storage: Storage, resource: AnyResource, tenant: TenantId) {
  const row = await seed(storage, resource, tenant, { n: baseOf(resource) })
  return { key: row[resource.key] as string, version: row.version as number }
}
