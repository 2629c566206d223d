import type { AnyResource } from '../../schemas/resource.js'
import type { StorageStatus, TenantId } from './port.js'

/** A row with all its columns, values as in JSON, timestamps normalised. */
export type DriverRow = Readonly<Record<string, unknown>>

/**
 * A row with more columns, or other values in them. Not a spread with more after it: V8 makes a
 * hidden class for each such object alone, of 300 bytes, and whatever reads the rows is slower.
 */
export function withColumns(row: DriverRow, more: DriverRow): DriverRow {
  return Object.assign({}, row, more)
}

/** A place in a list: the values of the order column and the key. */
export interface Position {
  readonly at: string
  readonly key: string
}

/** Where a row stands in its resource's lists. */
export function positionOf(resource: AnyResource, row: DriverRow): Position {
  return { at: row[resource.order] as string, key: row[resource.key] as string }
}

export interface DriverQuery {
  /** Equality on declared fields; null matches null. */
  readonly filter: ReadonlyMap<string, unknown>
  readonly since: string | undefined
  readonly until: string | undefined
  readonly order: 'asc' | 'desc'
  /** At most this many rows. */
  readonly limit: number
  /**
   * The page ends with the row with which its unbounded columns come to this many characters of text or
   * JSON, or bytes where a storage counts these; short values need not be counted.
   */
  readonly size: number
  /** Only rows that come after this place in the asked order. */
  readonly after: Position | undefined
  /** Whether to return `total`, which `after` and `limit` do not narrow. */
  readonly count: boolean
}

/** Rows sorted by the resource's order column, then by the bytes of the key. */
export interface DriverPage {
  readonly rows: DriverRow[]
  /** Whether `size` kept rows out that `limit` would have let in. */
  readonly cut?: boolean
  readonly total?: number
}

/** As in the port, but complete: an insert has every column except `version`. */
export type DriverChange =
  | {
      readonly op: 'insert'
      readonly resource: AnyResource
      readonly key: string
      readonly row: DriverRow
    }
  | {
      readonly op: 'update'
      readonly resource: AnyResource
      readonly key: string
      readonly expect: number | undefined
      readonly set: DriverRow
    }
  | {
      readonly op: 'delete'
      readonly resource: AnyResource
      readonly key: string
      readonly expect: number | undefined
    }
  | {
      readonly op: 'check'
      readonly resource: AnyResource
      readonly key: string
      readonly expect: number
    }

/**
 * The inner step of a storage: what differs between them. What is the same everywhere (stamps,
 * cursors, checks, the closed state) is done once, around it, by `createStorage`.
 *
 * `tenant` is null where rows of all tenants are meant. Rows are confined by `resource.scope`.
 * Failures that the port's table of codes names are thrown as `StorageError`.
 */
export interface Driver {
  readonly kind: string
  get(resource: AnyResource, tenant: TenantId | null, key: string): Promise<DriverRow | null>
  page(resource: AnyResource, tenant: TenantId | null, query: DriverQuery): Promise<DriverPage>
  /** All or nothing; a row for each insert and update, null for the rest. */
  apply(tenant: TenantId, changes: readonly DriverChange[]): Promise<(DriverRow | null)[]>
  /** Without it, there is nothing to do. */
  compact?(): Promise<boolean>
  ping(): Promise<StorageStatus>
  close(): Promise<void>
}
