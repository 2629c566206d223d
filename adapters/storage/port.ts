import type { AnyResource, FilterField, Row } from '../../schemas/resource.js'

declare const tenantBrand: unique symbol
/** The id of a tenant. Every read and write of an owned row names one. */
export type TenantId = string & { readonly [tenantBrand]: true }

/** Reads the rows of all tenants. Only sign-in and maintenance may. */
export const ACROSS_TENANTS = Symbol('across tenants')
/** Where the rows that belong to no tenant are read and written. */
export const SYSTEM = '00000000-0000-0000-0000-000000000000' as TenantId

export type Scope = TenantId | typeof ACROSS_TENANTS

/** Where to read: a resource, and whose rows of it. */
export interface From<R extends AnyResource> {
  readonly resource: R
  readonly tenant: Scope
}

/** What a row may be filtered by: equality, on declared fields. */
export type Filter<R extends AnyResource> = {
  readonly [Field in FilterField<R>]?: Row<R>[Field]
}

export interface Query<R extends AnyResource> {
  readonly filter?: Filter<R>
  /** Inclusive, on the resource's order column. ISO 8601. */
  readonly since?: string
  /** Exclusive, on the resource's order column. ISO 8601. */
  readonly until?: string
  /** Newest first unless told otherwise. */
  readonly order?: 'asc' | 'desc'
  /** Rows in a page, 1 to 1000. Long ones, of megabytes together, end it early. */
  readonly limit: number
  /** What an earlier page of the same query returned. */
  readonly cursor?: string
  /** Also count all rows of the query, whatever the page. */
  readonly count?: 'exact'
}

export interface Page<T> {
  readonly rows: readonly T[]
  /** Where the next page starts, or null on the last. */
  readonly next: string | null
  readonly total?: number
}

/** What a caller gives of a row: the storage adds the tenant, the stamps and missing nulls. */
export type NewRow<R extends AnyResource> = {
  readonly [Field in Exclude<keyof Row<R>, Stamped> as null extends Row<R>[Field]
    ? never
    : Field]: Row<R>[Field]
} & {
  readonly [Field in Exclude<keyof Row<R>, Stamped> as null extends Row<R>[Field]
    ? Field
    : never]?: Row<R>[Field]
}
export type Stamped = 'tenant_id' | 'created_at' | 'updated_at' | 'version'
/** New values of some columns; never the key. */
export type Values<R extends AnyResource> = Partial<NewRow<R>>

export type Insert<R extends AnyResource> = {
  readonly op: 'insert'
  readonly resource: R
  readonly row: NewRow<R>
}
export type Update<R extends AnyResource> = {
  readonly op: 'update'
  readonly resource: R
  readonly key: string
  /** The version the row must have; else the commit fails as `stale`. */
  readonly expect?: number | undefined
  readonly set: Values<R>
}
export type Delete<R extends AnyResource> = {
  readonly op: 'delete'
  readonly resource: R
  readonly key: string
  readonly expect?: number | undefined
}
/**
 * Nothing is written, but the row must be at this version when the commit is stored. A row that
 * belongs to no tenant can be checked in any tenant's commit.
 */
export type Check<R extends AnyResource> = {
  readonly op: 'check'
  readonly resource: R
  readonly key: string
  readonly expect: number
}
export type Change<R extends AnyResource = AnyResource> =
  | Insert<R>
  | Update<R>
  | Delete<R>
  | Check<R>

/** Rows are shared with the storage and must not be changed. */
export type Stored<R extends AnyResource> = Readonly<Row<R>>

export interface Commit<Changes extends readonly Change[] = readonly Change[]> {
  /** Whose rows these are: applied to every change. */
  readonly tenant: TenantId
  readonly changes: Changes
  /** The instant that the stamps show; the clock's by default. */
  readonly at?: Date
}

export type Committed<Changes extends readonly Change[]> = {
  [Index in keyof Changes]: Changes[Index] extends Insert<infer R> | Update<infer R>
    ? Stored<R>
    : Stored<AnyResource> | null
}

export interface StorageStatus {
  /** The newest migration applied, or null where there is no schema. */
  readonly migration: string | null
}

/**
 * What every storage does, all in the same way. Failures are `StorageError`s.
 *
 * A version is the number of the commit that wrote the row: all rows of a commit have one, and no
 * two commits have the same. It is greater than any that a row of the same key ever had, whether
 * the row was updated or deleted and made again.
 */
export interface Storage {
  readonly kind: string
  get<R extends AnyResource>(from: From<R>, key: string): Promise<Stored<R> | null>
  list<R extends AnyResource>(from: From<R>, query: Query<R>): Promise<Page<Stored<R>>>
  /**
   * Applies the changes in order, all or none, and returns the rows as stored: null for a delete
   * and a check. When it resolves, the storage has made the changes durable by its own measure.
   */
  commit<const Changes extends readonly Change[]>(
    commit: Commit<Changes>
  ): Promise<Committed<Changes>>
  /**
   * Gives some of the space that deleted rows left back to the system, where the storage does not
   * do so by itself: a step that holds nobody up for long. Whether there is more to give back.
   */
  compact(): Promise<boolean>
  /** A real read that takes the way of every other read. */
  ping(): Promise<StorageStatus>
  /** Waits for what is under way. Safe to call again. */
  close(): Promise<void>
}
