import assert from 'node:assert/strict'
import type { Storage, TenantId } from '../../../adapters/storage/port.js'
import { resources } from '../../../schemas/registry.js'
import type { AnyResource } from '../../../schemas/resource.js'
import {
  fieldSchema,
  fittingTexts,
  isIndexed,
  jsonValues,
  longestText,
  mixedTexts,
  plainColumns,
  resourceNamed,
  type SampleRow,
  sampleField,
  sampleInserts,
  sampleRow,
  sampleUuid,
  settableColumns,
  sparseRow,
  takesAnyJson
} from '../../support/sample-rows.js'
import {
  assertFails,
  createTenant,
  forEach,
  getRow,
  insertOf,
  instant,
  isAlone,
  listKeys,
  newValues,
  owned,
  ownTargets,
  type Stored,
  seed,
  start,
  storeTargets,
  writer
} from '../../support/stored-samples.js'
import type { StorageCase } from '../contract-case.js'

/** What goes in comes out. */
export const valueCases: readonly StorageCase[] = [
  {
    name: 'a full row and a sparse row of every resource',
    rule: 'values are kept',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      await forEach(resources, async (resource, base) => {
        await storeTargets(storage, resource, tenant)
        const given = ownTargets(resource)
        const full = sampleRow(resource, base, given)
        await assertRoundTrip(storage, resource, tenant, full, 'a full row')
        const sparse = sparseRow(resource, base + 1, required(resource, given))
        await assertRoundTrip(storage, resource, tenant, sparse, 'a sparse row')
        const ignored = {
          tenant_id: sampleUuid(9),
          created_at: start,
          updated_at: start,
          version: 1
        }
        const more = { ...sampleRow(resource, base + 2, given), ...ignored }
        await assertRoundTrip(storage, resource, tenant, more, 'with what no caller sets')
      })
    }
  },
  {
    name: 'an update of every column',
    rule: 'values are kept',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      await forEach(resources, async (resource, base) => {
        const before = await seed(storage, resource, tenant, { n: base })
        const key = before[resource.key] as string
        for (const { to } of resource.references)
          await seed(storage, resourceNamed(to), tenant, { n: base + 1 })
        const { [resource.key]: _, ...set } = sampleRow(resource, base + 1)
        const at = instant(60)
        const by = writer(resource, tenant, key)
        const update = { op: 'update', resource, key, set } as const
        const [after] = await storage.commit({ tenant: by, changes: [update], at })
        const { version: _version, ...kept } = before
        const expected = { ...kept, ...set, updated_at: at.toISOString() }
        assertStored(after as Stored, expected, 'as the commit returns it')
        assert.deepEqual(await getRow(storage, resource, tenant, key), after)
        const { rows } = await storage.list(
          { resource, tenant: by },
          { limit: 1000, since: (after as Stored)[resource.order] as string }
        )
        assert.deepEqual(
          rows.find((row: Stored) => row[resource.key] === key),
          after,
          'as a list returns it'
        )
      })
    }
  },
  {
    name: 'an update changes the columns it names and no others',
    rule: 'values are kept',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      await forEach(resources, async (resource, base) => {
        const before = await seed(storage, resource, tenant, { n: base })
        const key = before[resource.key] as string
        const by = writer(resource, tenant, key)
        const set = newValues(resource, base + 1)
        const ignored = { ...set, tenant_id: sampleUuid(9), created_at: start, version: 1 }
        for (const { name } of plainColumns(resource)) if (!(name in set)) set[name] = undefined
        const update = { op: 'update', resource, key, set: { ...ignored, ...set } } as const
        const at = instant(1)
        const [after] = await storage.commit({ tenant: by, changes: [update], at })
        const { version: _, ...kept } = before
        const expected = { ...kept, ...newValues(resource, base + 1) }
        assertStored(after as Stored, { ...expected, updated_at: at.toISOString() }, 'the row')
        assert.deepEqual(await getRow(storage, resource, tenant, key), after)
      })
    }
  },
  {
    name: 'JSON of every form',
    rule: 'values are kept',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      await forEach(owned, async (resource, base) => {
        let n = base
        await storeTargets(storage, resource, tenant)
        for (const { name } of anyJsonColumns(resource))
          for (const value of jsonValues) {
            const row = sparseRow(resource, n++, { ...ownTargets(resource), [name]: value })
            await assertRoundTrip(
              storage,
              resource,
              tenant,
              row,
              `${name} ${JSON.stringify(value)}`
            )
          }
        for (const { name } of anyJsonColumns(resource)) {
          const row = sparseRow(resource, n++, { ...ownTargets(resource), [name]: { zero: [-0] } })
          const changes = [insertOf(resource, row)]
          const [stored] = await storage.commit({ tenant, changes })
          assert.deepEqual((stored as Stored)[name], { zero: [0] }, 'JSON has one zero')
          assert.deepEqual(await getRow(storage, resource, tenant, row[resource.key]), stored)
        }
      })
    }
  },
  {
    name: 'texts of mixed scripts and of the greatest length, a megabyte where there is no limit',
    rule: 'values are kept',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      const tricky = ['', ' x ', "'; drop table flows; --", '%_\\', '\r\n\t\u0085']
      await forEach(resources, async (resource, base) => {
        let n = base
        await storeTargets(storage, resource, tenant)
        for (const { name, kind } of settableColumns(resource)) {
          if (kind !== 'text' || resource.references.some(({ field }) => field === name)) continue
          const schema = fieldSchema(resource, name)
          const bounded = schema.maxLength !== undefined || !isIndexed(resource, name)
          const long = bounded ? [longestText(schema)] : []
          for (const text of fittingTexts(schema, [...mixedTexts, ...tricky, ...long])) {
            const row = sampleRow(resource, n++, { ...ownTargets(resource), [name]: text })
            await assertRoundTrip(storage, resource, tenant, row, `${name} ${text.slice(0, 30)}`)
          }
        }
      })
    }
  },
  {
    name: 'a megabyte inside JSON',
    rule: 'values are kept',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      const text = longestText({ type: 'string' } as never)
      await forEach(owned, async (resource, base) => {
        let n = base
        await storeTargets(storage, resource, tenant)
        for (const { name } of anyJsonColumns(resource)) {
          const row = sparseRow(resource, n++, {
            ...ownTargets(resource),
            [name]: { deep: [text] }
          })
          await assertRoundTrip(storage, resource, tenant, row, name)
        }
      })
    }
  },
  {
    name: 'letters that the declaration wants in lower case',
    rule: 'values are kept',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      await forEach(resources, async (resource, base) => {
        for (const { name, lowerCase } of settableColumns(resource)) {
          if (!lowerCase) continue
          const text = sampleField(resource, name, base) as string
          const given = { [name]: text.toUpperCase() }
          const row = await seed(storage, resource, tenant, { n: base, given })
          assert.equal(row[name], text, name)
          const key = row[resource.key] as string
          assert.deepEqual(await getRow(storage, resource, tenant, key), row)
          const again = { n: base + 1, given: { [name]: text.toUpperCase() } }
          if (isAlone(resource, name))
            await assertFails(seed(storage, resource, tenant, again), 'conflict', name, [name])
          if (!resource.filters.includes(name)) continue
          assert.deepEqual(await listKeys(storage, resource, tenant, { filter: given }), [key])
        }
      })
    }
  },
  {
    name: 'the least and the greatest whole numbers, both booleans',
    rule: 'values are kept',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      await forEach(resources, async (resource, base) => {
        let n = base
        await storeTargets(storage, resource, tenant)
        for (const { name, kind } of settableColumns(resource)) {
          const { minimum, maximum } = fieldSchema(resource, name)
          const edges = [minimum ?? Number.MIN_SAFE_INTEGER, maximum ?? Number.MAX_SAFE_INTEGER]
          const values = kind === 'integer' ? edges : kind === 'boolean' ? [true, false] : []
          for (const value of values) {
            const row = sampleRow(resource, n++, { ...ownTargets(resource), [name]: value })
            await assertRoundTrip(storage, resource, tenant, row, `${name} ${value}`)
          }
        }
      })
    }
  },
  {
    name: 'null and absent are both null, when inserted and when updated',
    rule: 'null is kept',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      await forEach(resources, async (resource, base) => {
        const before = await seed(storage, resource, tenant, { n: base })
        const key = before[resource.key] as string
        const by = writer(resource, tenant, key)
        for (const { name, nullable } of settableColumns(resource)) {
          if (!nullable) continue
          assert.notEqual(before[name], null, `${name} has a value at first`)
          const update = { op: 'update', resource, key, set: { [name]: null } } as const
          const [after] = await storage.commit({ tenant: by, changes: [update] })
          assert.equal((after as Stored)[name], null, `${name} is null, not absent`)
          assert.deepEqual(await getRow(storage, resource, tenant, key), after)
        }
      })
    }
  },
  {
    name: 'nulls inside JSON, in objects and in lists',
    rule: 'null is kept',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      await forEach(owned, async (resource, base) => {
        let n = base
        await storeTargets(storage, resource, tenant)
        for (const { name } of anyJsonColumns(resource)) {
          const value = { nothing: null, list: [null, 1, null], inner: { nothing: null } }
          const row = sparseRow(resource, n++, { ...ownTargets(resource), [name]: value })
          await assertRoundTrip(storage, resource, tenant, row, name)
        }
      })
    }
  },
  {
    name: 'every time column, from the year 1 to 9999 and from any zone',
    rule: 'times are normal',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      const times = [
        ['0001-01-01T00:00:00.000Z', '0001-01-01T00:00:00.000Z'],
        ['1969-12-31T23:59:59.999Z', '1969-12-31T23:59:59.999Z'],
        ['2026-03-29T02:30:00.120+02:00', '2026-03-29T00:30:00.120Z'],
        ['2026-01-31T09:30:00Z', '2026-01-31T09:30:00.000Z'],
        ['2026-01-31T09:30:00.123999Z', '2026-01-31T09:30:00.123Z'],
        ['9999-12-31T23:59:59.999Z', '9999-12-31T23:59:59.999Z']
      ] as const
      await forEach(resources, async (resource, base) => {
        let n = base
        await storeTargets(storage, resource, tenant)
        for (const { name, kind } of settableColumns(resource)) {
          if (kind !== 'timestamp') continue
          for (const [given, normal] of times) {
            const row = sampleRow(resource, n++, { ...ownTargets(resource), [name]: given })
            const key = row[resource.key] as string
            const by = writer(resource, tenant, key)
            const changes = [insertOf(resource, row)]
            const [stored] = await storage.commit({ tenant: by, changes })
            assert.equal((stored as Stored)[name], normal, `${name} ${given}`)
            assert.deepEqual(await getRow(storage, resource, tenant, key), stored)
          }
          const row = sampleRow(resource, n++, { ...ownTargets(resource), [name]: '+010000-01-01' })
          const by = writer(resource, tenant, row[resource.key])
          const work = storage.commit({ tenant: by, changes: [insertOf(resource, row)] })
          await assert.rejects(work, RangeError, `${name} after the year 9999`)
        }
      })
    }
  },
  {
    name: 'created_at stays and updated_at moves, in the same form everywhere',
    rule: 'stamps are set',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      await forEach(resources, async (resource, base) => {
        const at = instant(1.5)
        const row = await seed(storage, resource, tenant, { n: base, at })
        assert.equal(row.created_at, '2026-01-01T00:00:01.500Z')
        assert.equal(row.updated_at, row.created_at)
        const key = row[resource.key] as string
        const update = { op: 'update', resource, key, set: {} } as const
        const by = writer(resource, tenant, key)
        const [after] = await storage.commit({ tenant: by, changes: [update], at: instant(2) })
        assert.equal((after as Stored).created_at, row.created_at)
        assert.equal((after as Stored).updated_at, '2026-01-01T00:00:02.000Z')
        assert.deepEqual(await getRow(storage, resource, tenant, key), after)
      })
    }
  },
  {
    name: 'what a caller does to its objects afterwards changes nothing',
    rule: 'rows are not shared',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      await forEach(owned, async (resource, base) => {
        const inserts = sampleInserts(resource, base)
        const row = inserts.at(-1)?.row as SampleRow
        const key = row[resource.key] as string
        const kept = structuredClone(row)
        const work = storage.commit({ tenant, changes: inserts, at: instant(0) })
        scramble(row)
        const returned = (await work).at(-1) as Stored
        const expected = expectedRow(resource, tenant, kept, instant(0))
        assertStored(returned, expected, 'changed while the commit was under way')
        for (const { name, kind } of settableColumns(resource)) {
          if (kind !== 'json') continue
          const set = structuredClone({ [name]: kept[name] })
          const update = { op: 'update', resource, key, set } as const
          const updated = storage.commit({ tenant, changes: [update], at: instant(0) })
          scramble(set)
          assertStored((await updated).at(0) as Stored, expected, `an update of ${name}`)
        }
        assertStored(await getRow(storage, resource, tenant, key), expected, 'what is stored')
        for (const handedOut of [
          returned,
          await getRow(storage, resource, tenant, key),
          (await storage.list({ resource, tenant }, { limit: 1 })).rows[0]
        ]) {
          scramble(handedOut as SampleRow)
          assertStored(await getRow(storage, resource, tenant, key), expected, 'get')
        }
        const { rows } = await storage.list({ resource, tenant }, { limit: 1000 })
        const listed = rows.find((each: Stored) => each[resource.key] === key)
        assertStored(listed, expected, 'list')
      })
    }
  }
]

/** What a row of these values looks like once stored. */
function expectedRow(resource: AnyResource, tenant: TenantId, row: SampleRow, at: Date): SampleRow {
  const expected: SampleRow = { created_at: at.toISOString(), updated_at: at.toISOString() }
  if (resource.tenancy === 'owned') expected.tenant_id = tenant
  for (const { name } of settableColumns(resource)) expected[name] = row[name] ?? null
  return expected
}

function assertStored(stored: Stored | null | undefined, expected: SampleRow, about: string): void {
  assert(stored, `${about}: the row is there`)
  const { version, ...values } = stored
  assert(Number.isSafeInteger(version) && (version as number) > 0, `${about}: version ${version}`)
  assert.deepEqual(values, expected, about)
}

/** Inserts the row and asserts that every way of reading it shows the same. */
async function assertRoundTrip(
  storage: Storage,
  resource: AnyResource,
  tenant: TenantId,
  row: SampleRow,
  about: string
): Promise<void> {
  const key = row[resource.key] as string
  const by = writer(resource, tenant, key)
  const at = instant(7)
  const [returned] = await storage.commit({ tenant: by, changes: [insertOf(resource, row)], at })
  const expected = expectedRow(resource, tenant, row, at)
  assertStored(returned as Stored, expected, `${about}, as the commit returns it`)
  const got = await storage.get({ resource, tenant: by }, key)
  assertStored(got as Stored, expected, `${about}, as get returns it`)
  assert.deepEqual(got, returned, `${about}: one version`)
  const { rows } = await storage.list({ resource, tenant: by }, { limit: 1000 })
  const listed = rows.find((each: Stored) => each[resource.key] === key)
  assert.deepEqual(listed, got, `${about}, as a list returns it`)
}

/** The given fields without those that may be left out. */
function required(resource: AnyResource, given: SampleRow): SampleRow {
  const optional = resource.columns.filter(({ nullable }) => nullable).map(({ name }) => name)
  return Object.fromEntries(Object.entries(given).filter(([name]) => !optional.includes(name)))
}

function anyJsonColumns(resource: AnyResource) {
  return settableColumns(resource).filter(
    ({ name, kind }) => kind === 'json' && takesAnyJson(fieldSchema(resource, name))
  )
}

/** Changes whatever can be changed, at every depth. */
function scramble(value: unknown): void {
  if (typeof value !== 'object' || value === null) return
  for (const key of Object.keys(value)) {
    scramble((value as SampleRow)[key])
    Reflect.set(value, key, 'scrambled')
  }
  Reflect.set(value, 'added', true)
}
