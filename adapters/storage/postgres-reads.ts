import type { AnyResource, Column } from '../../schemas/resource.js'
import type { DriverPage, DriverQuery } from './driver.js'
import type { TenantId } from './port.js'
import type { SqlRow, Statement } from './postgres-connections.js'
import { decodeLists } from './sql-functions.js'

/** A page that is larger, in rows, takes the server its time. Clients get 250 at most, and one tells of more. */
const BRIEF_PAGE = 251

export function getStatement(
  resource: AnyResource,
  tenant: TenantId | null,
  key: string
): Statement {
  const where = new Conditions()
  if (resource.scope && tenant !== null) where.add(`${column(resource.scope)} = ?`, tenant)
  where.add(`${column(resource.key)} = ?`, key)
  const row = `select ${selectList(resource)} from ${table(resource)} t ${where.text} limit 1`
  return {
    text: `select to_json(r) from (${row}) r`,
    values: where.values,
    onePlan: true
  }
}

/**
 * What asks for a page, and reads it from the row that comes.
 * @param isLong whether rows of the table are known to fill pages by their size.
 */
export function pageRead(
  resource: AnyResource,
  tenant: TenantId | null,
  query: DriverQuery,
  isLong: boolean
) {
  const { known, columns } = askedColumns(resource, tenant)
  const statement = pageStatement(resource, columns, tenant, query, isLong)
  return {
    statement,
    isBrief: isBrief(tenant, query) && statement.onePlan && !isLong,
    decode(found: SqlRow): DriverPage {
      const [total, cut, ...lists] = found as [string | null, boolean | null, ...SqlList[]]
      const page = { rows: decodeLists(columns, lists.map(parseList), known), cut: cut === true }
      return total === null ? page : { ...page, total: Number(total) }
    }
  }
}

/** Whether a page takes no time where an index serves its filter: each begins with the tenant. */
function isBrief(tenant: TenantId | null, { count, limit }: DriverQuery): boolean {
  return tenant !== null && !count && limit <= BRIEF_PAGE
}

function pageStatement(
  resource: AnyResource,
  columns: readonly Column[],
  tenant: TenantId | null,
  query: DriverQuery,
  isLong: boolean
): Statement {
  const { filter, since, until, order, limit, size, after, count } = query
  const [at, key] = [column(resource.order), column(resource.key)]
  const where = new Conditions()
  if (resource.scope && tenant !== null) where.add(`${column(resource.scope)} = ?`, tenant)
  for (const [field, value] of filter)
    if (value === null) where.add(`${column(field)} is null`)
    else where.add(`${column(field)} = ?`, value)
  if (since !== undefined) where.add(`${at} >= ?`, since)
  if (until !== undefined) where.add(`${at} < ?`, until)
  const all = `select count(*) from ${table(resource)} t ${where.text}`

  const beyond = order === 'asc' ? '>' : '<'
  if (after) where.add(`(${at}, ${key}) ${beyond} (?, ?)`, after.at, after.key)
  const ordered = `select ${columns.map(isLong ? selected : selectedText)} from ${table(resource)} t ${where.text}
    order by ${at} ${order}, ${key} ${order} limit ${plannedLimit(limit)}`
  const rows = `select * from (${ordered}) p limit ${where.value(limit)}`
  const within = isLong ? walkedWithinSize : withinSize
  const [fitting, cut]: Fitting = columns.some(({ unbounded }) => unbounded)
    ? within(rows, columns, where.value(size))
    : [rows, 'false']
  const total = count ? `(${all})` : 'null'
  // A list for each column takes Postgres and us less time than an object, or a message, for each row.
  return {
    text: `select ${total}, ${cut}, ${columns.map(aggregated)} from (${fitting}) r`,
    values: where.values,
    onePlan: isIndexed(resource, filter)
  }
}

/** The rows up to the one with which they come to the size, and how to tell that others follow. */
type Fitting = readonly [rows: string, cut: string]

/** For the text of a value Postgres reads and unpacks it, here of all rows, which are given with it. */
function withinSize(rows: string, columns: readonly Column[], size: string): Fitting {
  const fitting = `
    select * from (
      select *, sum(${textSize(columns)}) over before as size_before, lead(1) over before is not null as goes_on
      from (${rows}) t
      window before as (rows between unbounded preceding and 1 preceding)
    ) w where coalesce(size_before, 0) < ${size}`
  return [fitting, 'bool_and(r.goes_on)']
}

/** Row by row, and no further: a step for each is slow, but not as slow as rows that are long. */
function walkedWithinSize(rows: string, columns: readonly Column[], size: string): Fitting {
  const texts = `lateral (select ${columns.map(walkedText)} from (select s.*) t offset 0) t`
  const fitting = `
    with recursive stored as materialized (
      select *, row_number() over () as row_place from (${rows}) p
    ), walk as (
      select s.row_place, ${textSize(columns)}::bigint as row_size, t.*
      from stored s, ${texts} where s.row_place = 1
      union all
      select s.row_place, walk.row_size + ${textSize(columns)}, t.*
      from walk join stored s on s.row_place = walk.row_place + 1, ${texts}
      where walk.row_size < ${size}
    )
    select *, (select max(row_place) from stored) as last_place from walk`
  return [fitting, 'max(r.last_place) > max(r.row_place)']
}

function textSize(columns: readonly Column[]): string {
  const sizes = columns
    .filter(({ unbounded }) => unbounded)
    .map(({ name }) => `coalesce(octet_length(${column(name)}), 0)`)
  return `(${sizes.join(' + ')})`
}

/** The columns of a page, but for the tenant where it is known. */
function askedColumns({ columns, scope }: AnyResource, tenant: TenantId | null) {
  if (scope !== 'tenant_id' || tenant === null) return { columns, known: {} }
  return { columns: columns.filter(({ name }) => name !== scope), known: { [scope]: tenant } }
}

/** JSON as text: Postgres makes it once, for its size and for the list. */
function selectedText(each: Column): string {
  return each.kind === 'json' ? `${column(each.name)}::text as "${each.name}"` : selected(each)
}

/** Of a row that was selected before. */
function walkedText(each: Column): string {
  return each.kind === 'json' ? selectedText(each) : column(each.name)
}

function aggregated({ name, kind }: Column): string {
  if (kind !== 'json') return `json_agg(r."${name}")`
  return `'[' || string_agg(coalesce(r."${name}", 'null'), ',') || ']'`
}

type SqlList = readonly unknown[] | string | null

function parseList(list: SqlList): readonly unknown[] | null {
  return typeof list === 'string' ? JSON.parse(list) : list
}

/**
 * Whether an index has just the rows of a filter, in list order. Where one has only a part of it,
 * which one is best depends on the values: for others, all that it has might be read in vain.
 */
function isIndexed({ indexes }: AnyResource, filter: DriverQuery['filter']): boolean {
  const isWhole = (fields: readonly string[]) =>
    fields.length === filter.size && fields.every((field) => filter.has(field))
  return filter.size <= 1 || indexes.some(isWhole)
}

/**
 * Postgres expects a tenth of all rows where the limit is a parameter. A plan for that looks worse
 * than one for the limit itself, so that it would plan every page anew and keep none. Within this
 * limit, which it reads in the text, it expects no more than the page has; the texts stay few.
 */
function plannedLimit(limit: number): number {
  return 10 ** Math.ceil(Math.log10(limit))
}

/** Conditions with `?` for their values, which become numbered parameters. */
class Conditions {
  readonly values: unknown[] = []
  #conditions: string[] = []

  add(condition: string, ...values: unknown[]): void {
    const given = values[Symbol.iterator]()
    this.#conditions.push(condition.replace(/\?/g, () => this.value(given.next().value)))
  }

  /** The parameter that stands for a value. */
  value(value: unknown): string {
    return `$${this.values.push(value)}`
  }

  get text(): string {
    return this.#conditions.length ? `where ${this.#conditions.join(' and ')}` : ''
  }
}

/** The columns of `t`; times in UTC and without an offset, whatever the session's settings. */
function selectList(resource: AnyResource): string {
  return resource.columns.map(selected).join(', ')
}

function selected({ name, kind }: Column): string {
  return kind === 'timestamp' ? `${column(name)} at time zone 'UTC' as "${name}"` : column(name)
}

function table({ name }: AnyResource): string {
  return `public."${name}"`
}

function column(name: string): string {
  return `t."${name}"`
}
