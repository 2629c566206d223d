import assert from 'node:assert/strict'
import { encodeCursor } from '../../../adapters/storage/cursor.js'
import {
  ACROSS_TENANTS,
  type From,
  type Page,
  type Query,
  type Scope,
  type Storage,
  SYSTEM,
  type TenantId
} from '../../../adapters/storage/port.js'
import { resources } from '../../../schemas/registry.js'
import type { AnyResource } from '../../../schemas/resource.js'
import {
  fieldSchema,
  fittingTexts,
  mixedTexts,
  resourceNamed,
  type SampleRow,
  sampleField,
  sampleKey,
  sampleRow
} from '../../support/sample-rows.js'
import {
  assertFails,
  baseOf,
  createTenant,
  flows,
  forEach,
  insertOf,
  instant,
  isAlone,
  keysOf,
  listKeys,
  matching,
  owned,
  ownTargets,
  type Stored,
  seed,
  sinceStart,
  sortRows,
  start,
  storeTargets,
  TARGETS,
  templates,
  walk,
  walkKeys,
  writer
} from '../../support/stored-samples.js'
import type { StorageCase } from '../contract-case.js'

/** Order, pages, filters, periods, cursors, counts. */
export const listCases: readonly StorageCase[] = [
  {
    name: 'every list and every filter, both ways, on pages of any size',
    rule: 'lists are sorted',
    async run({ open, seed: number }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      const random = randomFrom(number)
      await forEach(resources, async (resource) => {
        const rows = await storeVaried(storage, resource, tenant, random, 30)
        const scope = listScope(resource, tenant)
        const filters = sharedFilters(resource).map((field) => ({ [field]: rows[0]?.[field] }))
        for (const order of ['asc', 'desc'] as const)
          for (const filter of [{}, ...filters]) {
            const expected = keysOf(resource, sortRows(resource, matching(rows, filter), order))
            for (const limit of [1, 4, expected.length, 1000]) {
              const query = { ...sinceStart, order, filter, limit: Math.max(limit, 1) }
              const about = `${order}, limit ${limit}, ${JSON.stringify(filter)}`
              assert.deepEqual(await walkKeys(storage, resource, scope, query), expected, about)
            }
          }
        const newest = keysOf(resource, sortRows(resource, rows, 'desc'))
        assert.deepEqual(
          await listKeys(storage, resource, scope, sinceStart),
          newest,
          'the newest come first unless told otherwise'
        )
      })
    }
  },
  {
    name: 'a row goes where its new time belongs',
    rule: 'lists are sorted',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      await forEach(owned, async (resource) => {
        if (resource.order === 'created_at') return
        for (const n of [1, 2, 3]) {
          const given = { [resource.order]: instant(n * 10).toISOString() }
          await seed(storage, resource, tenant, { n, given })
        }
        const [first, second, third] = [1, 2, 3].map((n) => sampleKey(resource, n))
        const set = { [resource.order]: instant(25).toISOString() }
        const update = { op: 'update', resource, key: first as string, set } as const
        await storage.commit({ tenant, changes: [update] })
        const query = { ...sinceStart, order: 'asc', limit: 1 } as const
        assert.deepEqual(await walkKeys(storage, resource, tenant, query), [second, first, third])
        for (const field of resource.filters) {
          const filter = { [field]: sampleField(resource, field, 1) }
          const keys = await listKeys(storage, resource, tenant, {
            filter,
            since: set[resource.order] as string
          })
          assert(keys.includes(first), `${field}: found at its new place`)
        }
      })
    }
  },
  {
    name: 'rows of one instant go by the bytes of their keys',
    rule: 'ties go by key',
    async run({ open, seed: number }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      await forEach(resources, async (resource, base) => {
        await storeTargets(storage, resource, tenant)
        const rows = shuffled(randomFrom(number), variedKeys(resource, 24)).map((key, i) =>
          sampleRow(resource, base + i, { ...ownTargets(resource), [resource.key]: key })
        )
        const stored = await storeAt(storage, resource, tenant, rows, () => instant(3))
        const scope = listScope(resource, tenant)
        for (const order of ['asc', 'desc'] as const) {
          const expected = keysOf(resource, sortRows(resource, stored, order))
          const query = { ...sinceStart, order, limit: 5 }
          assert.deepEqual(await walkKeys(storage, resource, scope, query), expected, order)
        }
      })
    }
  },
  {
    name: 'pages while rows come and go, the row of the cursor too',
    rule: 'pages are stable',
    async run({ open, seed: number }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      await forEach(resources, async (resource) => {
        for (const order of ['asc', 'desc'] as const)
          await assertStablePages(storage, resource, tenant, order, randomFrom(number))
      })
    }
  },
  {
    name: 'a page of long rows ends early, and the next goes on after it',
    rule: 'pages are bounded',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      const other = await createTenant(storage, 2)
      const secrets = resourceNamed('secrets')
      const half = 'x'.repeat(500_000)
      const long: [AnyResource, SampleRow][] = [
        [templates, { description: half, definition: { text: half } }],
        [secrets, { ciphertext: half.repeat(2) }]
      ]
      for (const [resource, given] of long) {
        const stored: Stored[] = []
        for (let n = 0; n < 12; n++) {
          const at = instant(n)
          stored.push(await seed(storage, resource, tenant, { n: baseOf(resource) + n, given, at }))
          await seed(storage, resource, other, { n: baseOf(resource) + n, at })
        }
        const expected = keysOf(resource, stored)
        for (const order of ['asc', 'desc'] as const) {
          const lengths: number[] = []
          const keys: unknown[] = []
          let cursor: string | null = null
          do {
            const query: Query<AnyResource> = { ...sinceStart, order, limit: 100, count: 'exact' }
            const from = { resource, tenant }
            const page: Page<Stored> = await storage.list(
              from,
              cursor ? { ...query, cursor } : query
            )
            assert.equal(page.total, 12, 'the count is of all')
            lengths.push(page.rows.length)
            keys.push(...keysOf(resource, page.rows))
            cursor = page.next
          } while (cursor)
          assert.deepEqual(keys, order === 'asc' ? expected : expected.toReversed())
          assert.deepEqual(lengths, [5, 5, 2], `${resource.name}, ${order}`)
        }
        const few = await storage.list({ resource, tenant }, { ...sinceStart, limit: 3 })
        assert.equal(few.rows.length, 3, 'a short page is as long as asked for')
      }

      const description = 'x'.repeat(50_000)
      const changes = Array.from({ length: 100 }, (_, i) => {
        const n = baseOf(templates) + 100 + i
        return insertOf(templates, sampleRow(templates, n, { description, definition: null }))
      })
      await storage.commit({ tenant: other, changes, at: instant(50) })
      const many = { since: instant(50).toISOString(), limit: 100 }
      const { rows: fitting } = await storage.list({ resource: templates, tenant: other }, many)
      assert.equal(fitting.length, 84, 'rows of middle length add up')

      const longer = { description: half.repeat(10) }
      for (const n of [20, 21])
        await seed(storage, templates, tenant, {
          n: baseOf(templates) + n,
          given: longer,
          at: instant(n)
        })
      const query = { since: instant(20).toISOString(), limit: 10, order: 'asc' } as const
      const first = await storage.list({ resource: templates, tenant }, query)
      const cursor = first.next as string
      const last = await storage.list({ resource: templates, tenant }, { ...query, cursor })
      assert.deepEqual(
        [first, last].map(({ rows }) => keysOf(templates, rows)),
        [20, 21].map((n) => [sampleKey(templates, baseOf(templates) + n)]),
        'a row that is longer than a page is one by itself'
      )
      assert.equal(last.next, null)

      const short: Stored[] = []
      for (const [i, definition] of [null, 'null', { 'ü"\u2028': [1.5, null, ''] }].entries()) {
        const given = { description: '', definition }
        const n = baseOf(templates) + 30 + i
        short.push(await seed(storage, templates, tenant, { n, given, at: instant(30 + i) }))
      }
      const among = { ...query, since: instant(30).toISOString() }
      const { rows, next } = await storage.list({ resource: templates, tenant }, among)
      assert.deepEqual(rows, short, 'short rows are read as ever where others are long')
      assert.equal(next, null)
    }
  },
  {
    name: 'every declared filter, alone and with every other, null too',
    rule: 'filters hold',
    async run({ open, seed: number }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      const random = randomFrom(number)
      await forEach(resources, async (resource) => {
        const rows = await storeVaried(storage, resource, tenant, random, 24)
        const scope = listScope(resource, tenant)
        for (const filter of filterCombinations(resource, rows)) {
          const expected = keysOf(resource, sortRows(resource, matching(rows, filter), 'asc'))
          const about = JSON.stringify(filter)
          const query = { ...sinceStart, filter, order: 'asc', limit: 3 } as const
          assert.deepEqual(await walkKeys(storage, resource, scope, query), expected, about)
        }
        const ignored = Object.fromEntries(resource.filters.map((field) => [field, undefined]))
        const all = await listKeys(storage, resource, scope, { ...sinceStart, filter: ignored })
        assert.equal(all.length, rows.length, 'undefined is no filter')
        const unknown = { filter: { updated_at: start }, limit: 1 }
        await assert.rejects(storage.list({ resource, tenant: scope }, unknown), TypeError)
      })
    }
  },
  {
    name: 'a filter follows an update and a delete',
    rule: 'filters hold',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      await forEach(resources, async (resource, base) => {
        await storeTargets(storage, resource, tenant)
        let n = base
        for (const field of sharedFilters(resource)) {
          const [before, after] = filterPool(resource, field)
          const row = sampleRow(resource, n++, { ...ownTargets(resource), [field]: before })
          const key = row[resource.key] as string
          const by = writer(resource, tenant, key)
          await storage.commit({ tenant: by, changes: [insertOf(resource, row)], at: instant(n) })
          async function finds(value: unknown) {
            const filter = { [field]: value }
            return (await listKeys(storage, resource, by, { filter })).includes(key)
          }
          assert.deepEqual([await finds(before), await finds(after)], [true, false], field)
          const update = { op: 'update', resource, key, set: { [field]: after } } as const
          await storage.commit({ tenant: by, changes: [update] })
          assert.deepEqual([await finds(before), await finds(after)], [false, true], field)
          await storage.commit({ tenant: by, changes: [{ op: 'delete', resource, key }] })
          assert.deepEqual([await finds(before), await finds(after)], [false, false], field)
        }
      })
    }
  },
  {
    name: 'since is inclusive, until is not, with filters and cursors too',
    rule: 'periods hold',
    async run({ open, seed: number }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      const random = randomFrom(number)
      await forEach(resources, async (resource) => {
        const rows = await storeVaried(storage, resource, tenant, random, 24)
        const scope = listScope(resource, tenant)
        const [field] = sharedFilters(resource)
        const filters = field ? [{}, { [field]: rows[0]?.[field] }] : [{}]
        for (const [since, until] of [
          [1, 3],
          [0, 4],
          [2, 2],
          [0, 1],
          [3, 99],
          [3, 1]
        ] as const)
          for (const filter of filters)
            for (const order of ['asc', 'desc'] as const) {
              const inside = matching(rows, filter).filter((row) => {
                const at = Date.parse(row[resource.order] as string)
                return at >= instant(since).getTime() && at < instant(until).getTime()
              })
              const expected = keysOf(resource, sortRows(resource, inside, order))
              // Another zone, which must not matter.
              const zoned = instant(since).toISOString().replace('Z', '+00:00')
              const query = { filter, order, since: zoned, until: instant(until).toISOString() }
              const about = `${since} to ${until}, ${order}, ${JSON.stringify(filter)}`
              const keys = await walkKeys(storage, resource, scope, { ...query, limit: 3 })
              assert.deepEqual(keys, expected, about)
              const page = { ...query, limit: 1, count: 'exact' } as const
              const { total } = await storage.list({ resource, tenant: scope }, page)
              assert.equal(total, expected.length, `${about}, counted`)
            }
        const wrong = { since: 'yesterday', limit: 1 }
        await assert.rejects(storage.list({ resource, tenant: scope }, wrong), RangeError)
      })
    }
  },
  {
    name: 'a cursor leads on in its own list and is refused by every other',
    rule: 'cursors are bound',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      for (const resource of owned)
        for (const n of [1, 2, 3, 4])
          await seed(storage, resource, tenant, { n: baseOf(resource) + n, at: instant(n) })
      await forEach(owned, async (resource) => {
        const query = { ...sinceStart, limit: 2 }
        const from = { resource, tenant }
        const first = await storage.list(from, query)
        const cursor = first.next as string
        assert.equal(typeof cursor, 'string')
        const second = await storage.list(from, { ...query, cursor })
        const all = await listKeys(storage, resource, tenant, sinceStart)
        assert.deepEqual(keysOf(resource, [...first.rows, ...second.rows]), all.slice(0, 4))
        const [longer] = keysOf(
          resource,
          (await storage.list(from, { ...query, limit: 3, cursor })).rows
        )
        assert.equal(longer, all[2], 'the size of a page may change on the way')

        async function refused(about: string, changed: Partial<Query<AnyResource>>) {
          const work = storage.list(from, { ...query, cursor, ...changed })
          await assertFails(work, 'bad_cursor', about)
        }
        await refused('another order', { order: 'asc' })
        await refused('another period', { since: instant(1).toISOString() })
        await refused('another end', { until: instant(90).toISOString() })
        for (const field of resource.filters)
          await refused(`a filter by ${field}`, {
            filter: { [field]: sampleField(resource, field, 1) }
          })
        const other = owned.find((each) => each !== resource) as AnyResource
        const foreign = storage.list({ resource: other, tenant }, { ...query, cursor })
        await assertFails(foreign, 'bad_cursor', 'another resource')
        for (const text of ['', 'null', '0', '%', cursor.slice(1), `${cursor}A`, `${cursor}=`])
          await refused(JSON.stringify(text), { cursor: text })
      })
    }
  },
  {
    name: 'a cursor goes with the same filters in another order',
    rule: 'cursors are bound',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      const given = { status: 'draft', template_id: null }
      for (const n of [1, 2]) await seed(storage, flows, tenant, { n, given, at: instant(n) })
      const from = { resource: flows, tenant }
      const { next } = await storage.list(from, { filter: given, limit: 1 })
      const filter = { template_id: null, status: 'draft' }
      const { rows } = await storage.list(from, { filter, limit: 1, cursor: next as string })
      assert.deepEqual(keysOf(flows, rows), [sampleKey(flows, 1)])
    }
  },
  {
    name: 'a cursor that somebody made up shows nothing outside the period of its list',
    rule: 'cursors are bound',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      for (const n of [1, 2, 3, 4]) await seed(storage, flows, tenant, { n, at: instant(n) })
      const from = { resource: flows, tenant }
      const period = { since: instant(2).toISOString(), until: instant(4).toISOString() }
      for (const [order, seconds, expected] of [
        ['asc', 0, [2, 3]],
        ['asc', 9, []],
        ['desc', 9, [3, 2]],
        ['desc', 0, []]
      ] as const) {
        const query = { ...period, order, limit: 1 }
        const { next } = await storage.list(from, query)
        const [list] = JSON.parse(Buffer.from(next as string, 'base64url').toString())
        const cursor = encodeCursor(list, { at: instant(seconds).toISOString(), key: 'x' })
        const { rows } = await storage.list(from, { ...query, limit: 9, cursor })
        const keys = expected.map((n) => sampleKey(flows, n))
        assert.deepEqual(keysOf(flows, rows), keys, `${order} from ${seconds}`)
      }
    }
  },
  {
    name: 'limits outside 1 to 1000 are refused',
    rule: 'cursors are bound',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      const other = await createTenant(storage, 2)
      for (const limit of [0, -1, 1.5, 1001, Number.NaN])
        await assert.rejects(storage.list({ resource: flows, tenant }, { limit }), RangeError)
      for (const n of [1, 2]) await seed(storage, flows, tenant, { n, at: instant(n) })
      const { next } = await storage.list({ resource: flows, tenant }, { limit: 1 })
      const query = { limit: 1, cursor: next as string }
      const { rows } = await storage.list({ resource: flows, tenant: other }, query)
      assert.deepEqual(rows, [], 'a cursor opens no other tenant')
      const { rows: rest } = await storage.list({ resource: flows, tenant }, query)
      assert.deepEqual(keysOf(flows, rest), [sampleKey(flows, 1)])
    }
  },
  {
    name: 'the count is of the query, whatever the page, and only when asked for',
    rule: 'counts are exact',
    async run({ open, seed: number }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      await forEach(resources, async (resource) => {
        const rows = await storeVaried(storage, resource, tenant, randomFrom(number), 12)
        const from: From<AnyResource> = { resource, tenant: listScope(resource, tenant) }
        const query = { ...sinceStart, limit: 5 }
        assert(!('total' in (await storage.list(from, query))), 'not without being asked')
        const first = await storage.list(from, { ...query, count: 'exact' })
        assert.equal(first.total, rows.length)
        const cursor = first.next as string
        const second = await storage.list(from, { ...query, cursor, count: 'exact' })
        assert.equal(second.total, rows.length, 'on the second page')
        for (const filter of filterCombinations(resource, rows)) {
          const expected = matching(rows, filter).length
          const { total } = await storage.list(from, { ...query, filter, count: 'exact' })
          assert.equal(total, expected, JSON.stringify(filter))
        }
      })
    }
  }
]

/** Where a list shows all rows of the case: the tenants are seen from outside only. */
function listScope(resource: AnyResource, tenant: TenantId): Scope {
  if (resource.tenancy === 'system') return SYSTEM
  return resource.tenancy === 'root' ? ACROSS_TENANTS : tenant
}

/** Small, fast and good enough (mulberry32): whole numbers from 0 to below `limit`. */
function randomFrom(start: number): (limit: number) => number {
  let state = start
  return (limit) => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) % limit
  }
}

function shuffled<T>(random: (limit: number) => number, list: readonly T[]): T[] {
  const result = [...list]
  for (let i = result.length - 1; i > 0; i--) {
    const j = random(i + 1)
    const held = result[i] as T
    result[i] = result[j] as T
    result[j] = held
  }
  return result
}

/** A few values of a filterable field; the rows that they refer to are stored already. */
function filterPool(resource: AnyResource, field: string): unknown[] {
  const values = [1, 2, 3].map((i) => sampleField(resource, field, baseOf(resource) + TARGETS + i))
  const nullable = resource.columns.find(({ name }) => name === field)?.nullable
  return [...new Set(values), ...(nullable ? [null] : [])]
}

function sharedFilters(resource: AnyResource): string[] {
  return resource.filters.filter((field) => !isAlone(resource, field))
}

/** Keys of mixed scripts where the declaration allows them. */
function variedKeys(resource: AnyResource, count: number): string[] {
  const texts = fittingTexts(fieldSchema(resource, resource.key), mixedTexts)
  const rest = Array.from({ length: count }, (_, i) => sampleKey(resource, baseOf(resource) + i))
  return [...texts, ...rest].slice(0, count)
}

/** Rows at few instants, so that most share theirs, with filterable fields of few values. */
async function storeVaried(
  storage: Storage,
  resource: AnyResource,
  tenant: TenantId,
  random: (limit: number) => number,
  count: number
): Promise<Stored[]> {
  await storeTargets(storage, resource, tenant)
  const rows = shuffled(random, variedKeys(resource, count)).map((key, i) => {
    const given: SampleRow = { [resource.key]: key }
    for (const field of sharedFilters(resource)) {
      const pool = filterPool(resource, field)
      given[field] = pool[random(pool.length)]
    }
    for (const { field } of resource.references)
      if (!(field in given)) given[field] = ownTargets(resource)[field]
    return sampleRow(resource, baseOf(resource) + i, given)
  })
  return storeAt(storage, resource, tenant, rows, () => instant(random(5)))
}

/** Stores rows so that each lists at its instant; all at once, so that they may share a group. */
async function storeAt(
  storage: Storage,
  resource: AnyResource,
  tenant: TenantId,
  rows: readonly SampleRow[],
  timeOf: (row: SampleRow) => Date
): Promise<Stored[]> {
  return Promise.all(
    rows.map(async (row) => {
      const at = timeOf(row)
      const by = writer(resource, tenant, row[resource.key])
      const listed = resource.order === 'created_at' ? {} : { [resource.order]: at.toISOString() }
      const changes = [insertOf(resource, { ...row, ...listed })]
      const [stored] = await storage.commit({ tenant: by, changes, at })
      return stored as Stored
    })
  )
}

/** Each filter by each value that occurs and one that does not, and each pair of filters. */
function filterCombinations(resource: AnyResource, rows: readonly Stored[]): SampleRow[] {
  const singles = resource.filters.flatMap((field) => {
    const values = new Set(rows.map((row) => row[field]))
    const absent = resource.references.some((each) => each.field === field)
      ? 'nothing'
      : sampleField(resource, field, 88_888)
    return [...[...values].slice(0, 5), absent].map((value) => ({ [field]: value }))
  })
  const pairs = singles.flatMap((one) => singles.map((other) => ({ ...one, ...other })))
  return [...singles, ...pairs.filter((filter) => Object.keys(filter).length > 1)].slice(0, 60)
}

async function assertStablePages(
  storage: Storage,
  resource: AnyResource,
  tenant: TenantId,
  order: 'asc' | 'desc',
  random: (limit: number) => number
): Promise<void> {
  const scope = listScope(resource, tenant)
  let n = baseOf(resource) + (order === 'asc' ? 0 : 1000)
  if (order === 'asc') await storeTargets(storage, resource, tenant)
  const base = order === 'asc' ? 0 : 100_000
  async function add(): Promise<Stored> {
    const row = sampleRow(resource, n++, ownTargets(resource))
    const at = instant(base + random(8))
    const [stored] = await storeAt(storage, resource, tenant, [row], () => at)
    return stored as Stored
  }
  let current = await Promise.all(Array.from({ length: 16 }, add))
  const query = { since: instant(base).toISOString(), order, limit: 3 } as const
  let last: Stored | undefined
  for await (const page of walk(storage, resource, scope, query)) {
    const now = sortRows(resource, [...current, ...(last ? [last] : [])], order)
    const ahead = last ? now.slice(now.indexOf(last) + 1) : now
    const about = `${order}, after ${last?.[resource.key]}`
    assert.deepEqual(
      keysOf(resource, page.rows),
      keysOf(resource, ahead.slice(0, query.limit)),
      about
    )
    assert.equal(page.next !== null, ahead.length > query.limit, `${about}: whether there is more`)
    last = ahead[query.limit - 1]
    if (!last) return
    // The row that the cursor stands on goes, and one more that may be on either side.
    const going = new Set([last, current[random(current.length)] as Stored])
    for (const row of going) {
      const key = row[resource.key] as string
      const changes = [{ op: 'delete', resource, key }] as const
      await storage.commit({ tenant: writer(resource, tenant, key), changes })
    }
    current = current.filter((row) => !going.has(row))
    current.push(await add())
  }
}
