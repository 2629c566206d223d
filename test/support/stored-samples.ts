import assert from 'node:assert/strict'
import type { StorageErrorCode } from '../../adapters/storage/errors.js'
import {
  type Change,
  type Insert,
  type Page,
  type Query,
  type Scope,
  type Storage,
  SYSTEM,
  type TenantId
} from '../../adapters/storage/port.js'
import { audit } from '../../schemas/audit.js'
import { resources } from '../../schemas/registry.js'
import type { AnyResource } from '../../schemas/resource.js'
import { tenants } from '../../schemas/tenants.js'
import {
  plainColumns,
  resourceNamed,
  type SampleRow,
  sampleField,
  sampleInserts,
  sampleRow,
  settableColumns
} from './sample-rows.js'

export type Stored = Readonly<Record<string, unknown>>

export const owned = resources.filter(({ tenancy }) => tenancy === 'owned')

export const flows = resourceNamed('flows')

export const templates = resourceNamed('templates')

/**
 * Sample numbers from here on are free: the tenants of `createTenant` use the ones below. What the
 * samples of one resource refer to has their numbers, so each resource has a range of its own.
 */
export const FIRST = 100

/** In the range of each resource: the rows that its samples refer to, and audit entries. */
export const TARGETS = 5000

export const AUDIT = 6000

export function baseOf(resource: AnyResource): number {
  return FIRST + 10_000 * resources.indexOf(resource)
}

export function instant(seconds: number): Date {
  return new Date(Date.UTC(2026, 0, 1) + seconds * 1000)
}

export async function createTenant(storage: Storage, n = 1): Promise<TenantId> {
  const row = sampleRow(tenants, n)
  const tenant = row.id as TenantId
  const insert = { op: 'insert', resource: tenants as AnyResource, row } as const
  await storage.commit({ tenant, changes: [insert], at: instant(-1000) })
  return tenant
}

/** Whom a row is written as: a row of the tenants themselves is its own tenant. */
export function writer(resource: AnyResource, tenant: TenantId, key: unknown): TenantId {
  if (resource.tenancy === 'system') return SYSTEM
  return resource.tenancy === 'root' ? (key as TenantId) : tenant
}

export interface Seed {
  readonly n: number
  readonly given?: SampleRow
  readonly at?: Date
}

/** Stores a sample, with what it refers to, at its place in lists, and returns it. */
export async function seed(
  storage: Storage,
  resource: AnyResource,
  tenant: TenantId,
  { n, given = {}, at = instant(0) }: Seed
): Promise<Stored> {
  const listed = resource.order === 'created_at' ? {} : { [resource.order]: at.toISOString() }
  const changes = sampleInserts(resource, n, { ...listed, ...given })
  const { row } = changes.at(-1) as Insert<AnyResource>
  const key = (row as SampleRow)[resource.key]
  const rows = await storage.commit({ tenant: writer(resource, tenant, key), changes, at })
  return rows.at(-1) as Stored
}

export function insertOf(resource: AnyResource, row: SampleRow): Insert<AnyResource> {
  return { op: 'insert', resource, row }
}

/** New values for some plain column of a sample. */
export function newValues(resource: AnyResource, n: number): SampleRow {
  const [column] = plainColumns(resource).length
    ? plainColumns(resource)
    : settableColumns(resource).filter(({ name }) => name !== resource.key)
  assert(column, `${resource.name} have a column to change`)
  return { [column.name]: sampleField(resource, column.name, n) }
}

/** The entry that the API adds to a change. */
export function auditInsert(n: number, resourceId: string): Insert<AnyResource> {
  return insertOf(audit, sampleRow(audit, n, { resource_id: resourceId }))
}

export async function auditCount(storage: Storage, tenant: TenantId, resourceId: string) {
  const { total } = await storage.list(
    { resource: audit, tenant },
    { filter: { resource_id: resourceId }, limit: 1, count: 'exact' }
  )
  return total
}

export async function getRow(
  storage: Storage,
  resource: AnyResource,
  tenant: TenantId,
  key: unknown
) {
  const scope = writer(resource, tenant, key)
  return (await storage.get({ resource, tenant: scope }, key as string)) as Stored | null
}

export async function listKeys(
  storage: Storage,
  resource: AnyResource,
  tenant: Scope,
  query: Partial<Query<AnyResource>> = {}
): Promise<unknown[]> {
  const { rows } = await storage.list({ resource, tenant }, { limit: 1000, ...query })
  return keysOf(resource, rows)
}

/** Every page of a list, one after the other. */
export async function walkKeys(
  storage: Storage,
  resource: AnyResource,
  tenant: Scope,
  query: Query<AnyResource>
): Promise<unknown[]> {
  const keys: unknown[] = []
  for await (const page of walk(storage, resource, tenant, query))
    keys.push(...keysOf(resource, page.rows))
  return keys
}

export async function* walk(
  storage: Storage,
  resource: AnyResource,
  tenant: Scope,
  query: Query<AnyResource>
): AsyncGenerator<Page<Stored>> {
  let page: Page<Stored> = await storage.list({ resource, tenant }, query)
  for (let pages = 0; ; pages++) {
    assert(page.rows.length <= query.limit, 'a page is not longer than its limit')
    assert(page.next === null || page.rows.length === query.limit, 'only the last page is short')
    assert(pages < 1000, 'a walk through the pages ends')
    yield page
    if (page.next === null) return
    page = await storage.list({ resource, tenant }, { ...query, cursor: page.next })
  }
}

export function keysOf({ key }: AnyResource, rows: readonly Stored[]): unknown[] {
  return rows.map((row) => row[key])
}

/** The order of every list: by time, then by the UTF-8 bytes of the key. */
export function sortRows(
  { order, key }: AnyResource,
  rows: readonly Stored[],
  direction: 'asc' | 'desc'
): Stored[] {
  const sorted = [...rows].sort(
    (a, b) =>
      Date.parse(a[order] as string) - Date.parse(b[order] as string) ||
      Buffer.compare(Buffer.from(a[key] as string), Buffer.from(b[key] as string))
  )
  return direction === 'asc' ? sorted : sorted.reverse()
}

/** @returns the error, for what more the case wants of it. */
export async function assertFails(
  work: Promise<unknown>,
  code: StorageErrorCode,
  about: string,
  fields?: readonly string[]
): Promise<void> {
  const error = await work.then(
    () => assert.fail(`${about}: it succeeded instead of ${code}`),
    (reason: unknown) => reason as { code?: unknown; fields?: unknown; name?: unknown }
  )
  assert.equal(error.name, 'StorageError', `${about}: ${error}`)
  assert.equal(error.code, code, `${about}: ${error}`)
  if (fields) assert.deepEqual(error.fields, fields, `${about}: the fields`)
}

/** Names the resource in whatever fails. */
export async function forEach(
  list: readonly AnyResource[],
  run: (resource: AnyResource, base: number) => Promise<void>
): Promise<void> {
  for (const resource of list)
    try {
      await run(resource, baseOf(resource))
    } catch (error) {
      if (error instanceof Error) error.message = `${resource.name}: ${error.message}`
      throw error
    }
}

/** Whether a value of this field finds one row at most. */
export function isAlone({ unique, key }: AnyResource, field: string): boolean {
  return field === key || unique.some(({ fields }) => fields.length === 1 && fields[0] === field)
}

export async function storeTargets(storage: Storage, resource: AnyResource, tenant: TenantId) {
  for (const { to } of resource.references)
    for (const i of [1, 2, 3]) {
      const n = baseOf(resource) + TARGETS + i
      await seed(storage, resourceNamed(to), tenant, { n, at: instant(-500) })
    }
}

export const start = instant(0).toISOString()

/** Lists start here, where the rows that the case needs besides are left behind. */
export const sinceStart = { since: start } as const

/** References to the rows of `storeTargets`. */
export function ownTargets(resource: AnyResource): SampleRow {
  const n = baseOf(resource) + TARGETS + 1
  const entries = resource.references.map(({ field }) => [field, sampleField(resource, field, n)])
  return Object.fromEntries(entries)
}

export function matching(rows: readonly Stored[], filter: SampleRow): Stored[] {
  return rows.filter((row) => Object.entries(filter).every(([name, value]) => row[name] === value))
}

/** Every row of a tenant. */
export async function rowsOf(
  storage: Storage,
  tenant: TenantId
): Promise<Record<string, Stored[]>> {
  const found: Record<string, Stored[]> = {}
  for (const resource of [tenants as AnyResource, ...owned]) {
    const { rows } = await storage.list({ resource, tenant }, { limit: 1000 })
    found[resource.name] = [...rows]
  }
  return found
}

/** One change of each kind to an existing row. */
export function writesTo(resource: AnyResource, key: string, expect: number): Change[] {
  return [
    { op: 'update', resource, key, expect, set: newValues(resource, 1) },
    { op: 'check', resource, key, expect },
    { op: 'delete', resource, key, expect }
  ]
}

/** What many commits at once came to, sorted. */
export function codesOf(outcomes: readonly PromiseSettledResult<unknown>[]): unknown[] {
  return outcomes
    .map((outcome) =>
      outcome.status === 'fulfilled' ? 'stored' : (outcome.reason as { code?: unknown }).code
    )
    .sort()
}

export function pick(row: Stored, names: readonly string[]): SampleRow {
  return Object.fromEntries(names.map((name) => [name, row[name]]))
}
