import t from 'tap'
import type { Statement } from '../../adapters/storage/better-sqlite3.js'
import { type From, type Query, SYSTEM, type TenantId } from '../../adapters/storage/port.js'
import { createStorage } from '../../adapters/storage/storage.js'
import { resources } from '../../schemas/registry.js'
import type { AnyResource, ColumnKind } from '../../schemas/resource.js'
import { resourceNamed, sampleField } from '../support/sample-rows.js'
import { openWithConnection } from '../support/sqlite-connection.js'
import { createTenant, instant, seed } from '../support/stored-samples.js'

/** The migrations are written by hand and the declarations are not made of them: they must agree. */
const { driver, db } = openWithConnection({ path: ':memory:' })
t.teardown(() => driver.close())

/** Tables of the storage itself. */
const ownTables = ['row_version', 'schema_migrations']

const sqlTypes: Record<ColumnKind, string> = {
  text: 'TEXT',
  timestamp: 'TEXT',
  json: 'TEXT',
  integer: 'INTEGER',
  boolean: 'INTEGER',
  real: 'REAL'
}

/** The rows of a pragma about a table or an index. */
function pragma<T>(name: string, about: string): T[] {
  return db.prepare(`select * from pragma_${name}(?)`).all(about) as T[]
}

interface Index {
  readonly name: string
  readonly unique: number
  readonly partial: number
  /** `c` was created by itself, `u` and `pk` come with the table. */
  readonly origin: string
}

function indexColumns({ name }: Index): string {
  return pragma<{ name: string }>('index_info', name)
    .map((column) => column.name)
    .join()
}

function isAlone({ unique }: AnyResource, field: string): boolean {
  return unique.some(({ fields }) => fields.length === 1 && fields[0] === field)
}

t.test('every resource has its table, and no other tables are there', async (t) => {
  const tables = db
    .prepare<[], string>("select name from sqlite_schema where type = 'table'")
    .pluck()
    .all()
    .filter((name) => !name.startsWith('sqlite_'))
  t.strictSame(tables.sort(), [...ownTables, ...resources.map(({ name }) => name)].sort())
})

for (const resource of resources) {
  const { name, columns, key, scope, order, filters, references, unique, tenancy } = resource
  const within = tenancy === 'owned' ? ['tenant_id'] : []

  t.test(`${name}: columns, their kinds and whether they may be empty`, async (t) => {
    const found = pragma<{ name: string; type: string; notnull: number }>('table_info', name)
    t.strictSame(
      found.map((column) => [column.name, column.type, column.notnull === 0]).sort(),
      columns.map((column) => [column.name, sqlTypes[column.kind], column.nullable]).sort()
    )
  })

  t.test(`${name}: references`, async (t) => {
    interface ForeignKey {
      readonly id: number
      readonly seq: number
      readonly table: string
      readonly from: string
      readonly to: string
      readonly on_delete: string
    }
    const found = new Map<number, string>()
    for (const each of pragma<ForeignKey>('foreign_key_list', name).sort((a, b) => a.seq - b.seq)) {
      const start = found.get(each.id) ?? `${each.table} ${each.on_delete}:`
      found.set(each.id, `${start} ${each.from}=${each.to}`)
    }
    const declared = references.map(({ field, to, onDelete }) => {
      const action = onDelete === 'cascade' ? 'CASCADE' : 'NO ACTION'
      return `${to} ${action}: tenant_id=tenant_id ${field}=${resourceNamed(to).key}`
    })
    const owner = within.map((column) => `tenants CASCADE: ${column}=id`)
    t.strictSame([...found.values()].sort(), [...declared, ...owner].sort())
  })

  t.test(`${name}: unique fields`, async (t) => {
    const indexes = pragma<Index>('index_list', name)
    t.strictSame(
      indexes
        .filter((index) => index.unique)
        .map(indexColumns)
        .sort(),
      [
        [...within, key].join(),
        ...unique.map((each) =>
          [...(each.within === 'tenant' ? within : []), ...each.fields].join()
        )
      ].sort()
    )
    t.notOk(
      indexes.some(({ partial }) => partial),
      'for all rows'
    )
  })

  t.test(
    `${name}: an index for the list, each filter, each reference, combined filters, and no more`,
    async (t) => {
      // Lists of tenants, and of what belongs to none, are for maintenance and may sort.
      const needed = resource.indexes.map((fields) => [...within, ...fields, order, key].join())
      t.strictSame(
        pragma<Index>('index_list', name)
          .filter(({ origin }) => origin === 'c')
          .map(indexColumns)
          .sort(),
        tenancy === 'owned' ? [[...within, order, key].join(), ...needed].sort() : []
      )
    }
  )

  if (tenancy !== 'owned') continue

  t.test(`${name}: a page seeks its start and reads in order`, async (t) => {
    const plans = await plansOf(resource, await sharedTenant)
    for (const { query, sql, plan } of plans) {
      const about = `${JSON.stringify(query)}: ${sql}`
      t.match(plan, /^SEARCH \w+ USING (COVERING )?INDEX/, about)
      t.notMatch(plan, /SCAN|TEMP B-TREE/, about)
      const filtered = Object.keys(query.filter ?? {})
      if (filtered.some((field) => isAlone(resource, field))) continue
      const sought = resource.indexes.find((fields) => fields.every((f) => filtered.includes(f)))
      for (const field of sought ?? []) t.ok(plan.includes(` AND ${field}=?`), about)
      t.ok(plan.includes(`(${scope}=?`), about)
      if (sql.startsWith('select count(*)')) continue
      const beyond = query.order === 'asc' ? '>' : '<'
      if (query.cursor) t.ok(plan.includes(`(${order},${key})${beyond}(?,?)`), about)
      if (query.since && !(query.cursor && query.order === 'asc'))
        t.ok(plan.includes(`${order}>?`), about)
      if (query.until && !(query.cursor && query.order !== 'asc'))
        t.ok(plan.includes(`${order}<?`), about)
    }
    for (const field of [undefined, ...filters.filter((each) => !isAlone(resource, each))])
      t.ok(
        plans.some(({ query }) => query.cursor && (!field || field in (query.filter ?? {}))),
        `a second page ${field ? `of a filter by ${field}` : ''}`
      )
  })
}

t.test('a key seeks its row', async (t) => {
  const tenant = await sharedTenant
  for (const resource of resources) {
    const from = { resource, tenant: resource.scope ? tenant : SYSTEM }
    const [sql = ''] = await recordSql(() => storage.get(from, 'key'))
    t.match(explain(sql), /^SEARCH \w+ USING INDEX sqlite_autoindex_/, resource.name)
  }
})

const storage = createStorage(driver)
const sharedTenant = createTenant(storage)

/** The statements that a read runs. Those it ran before are known to the driver, so none repeats. */
async function recordSql(read: () => Promise<unknown>): Promise<string[]> {
  const recorded: string[] = []
  const prototype = Object.getPrototypeOf(db.prepare('select 1'))
  const { iterate, get } = prototype
  prototype.iterate = function (this: Statement, ...values: unknown[]) {
    recorded.push(this.source)
    return iterate.apply(this, values)
  }
  prototype.get = function (this: Statement, ...values: unknown[]) {
    recorded.push(this.source)
    return get.apply(this, values)
  }
  try {
    await read()
  } finally {
    Object.assign(prototype, { iterate, get })
  }
  return recorded
}

function explain(sql: string): string {
  const values = (sql.match(/\?/g) ?? []).map(() => null)
  return db
    .prepare<unknown[], { detail: string }>(`explain query plan ${sql}`)
    .all(...values)
    .map(({ detail }) => detail)
    .join('; ')
}

/** Every form of page of a resource, with the plan of each statement that it runs. */
async function plansOf(resource: AnyResource, tenant: TenantId) {
  const n = 100 + 10_000 * resources.indexOf(resource)
  await seed(storage, resource, tenant, { n })
  // The same in all that is filtered by, so that every filter has a second page.
  const alike = resource.filters.filter((field) => !isAlone(resource, field))
  const references = resource.references.map(({ field }) => field)
  const given = Object.fromEntries(
    [...alike, ...references].map((field) => [field, sampleField(resource, field, n)])
  )
  for (const i of [1, 2]) await seed(storage, resource, tenant, { n: n + i, given, at: instant(i) })
  const from: From<AnyResource> = { resource, tenant }
  const found: { query: Query<AnyResource>; sql: string; plan: string }[] = []
  for (const query of queriesOf(resource, n)) {
    const { next } = await storage.list(from, query)
    const pages = next === null ? [query] : [query, { ...query, cursor: next }]
    for (const page of pages)
      for (const sql of await recordSql(() => storage.list(from, page)))
        found.push({ query: page, sql, plan: explain(sql) })
  }
  return found
}

function queriesOf(resource: AnyResource, n: number): Query<AnyResource>[] {
  const value = (field: string) => [field, sampleField(resource, field, n)]
  const singles = resource.filters.map((field) => [value(field)])
  const pairs = resource.filters.flatMap((one) =>
    resource.filters.filter((other) => other < one).map((other) => [value(one), value(other)])
  )
  const filters = [[], ...singles, ...pairs].map((entries) => Object.fromEntries(entries))
  const since = instant(-10).toISOString()
  const until = instant(10).toISOString()
  const periods = [{}, { since }, { until }, { since, until }]
  return filters.flatMap((filter) =>
    periods.flatMap((period) =>
      (['asc', 'desc'] as const).map(
        (order): Query<AnyResource> => ({ filter, ...period, order, limit: 1, count: 'exact' })
      )
    )
  )
}
