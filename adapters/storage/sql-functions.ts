import type { AnyResource, Column } from '../../schemas/resource.js'
import type { DriverChange, DriverRow } from './driver.js'
import { StorageError, type StorageErrorCode } from './errors.js'

/**
 * What goes into the functions of `migrations/postgres/` and what comes out of them, whether a
 * connection or PostgREST carries it.
 */

/** A row as Postgres gives it in JSON, where times may carry an offset. */
export type RawRow = Readonly<Record<string, unknown>>

/** The `changes` argument of `apply_changes`. */
export function encodeChanges(changes: readonly DriverChange[]): Record<string, unknown>[] {
  return changes.map((change) => ({ ...change, resource: change.resource.name }))
}

/** The rows that `apply_changes` returned, or null where this is no answer to these changes. */
export function decodeStored(
  changes: readonly DriverChange[],
  answer: unknown
): (DriverRow | null)[] | null {
  if (!Array.isArray(answer) || answer.length !== changes.length) return null
  return changes.map(({ resource }, index) => {
    const raw = answer[index] as RawRow | null
    return raw && decodeRow(resource, raw)
  })
}

/** The declared columns only: a newer migration may have added others. */
export function decodeRow(resource: AnyResource, raw: RawRow): DriverRow {
  const row: Record<string, unknown> = {}
  for (const column of resource.columns) row[column.name] = decodeValue(column, raw[column.name])
  return row
}

/**
 * Rows of which each column came as a list of its own, or as null where there are none.
 * @param known what all of them have besides
 */
export function decodeLists(
  columns: readonly Column[],
  lists: readonly (readonly unknown[] | null)[],
  known: DriverRow
): DriverRow[] {
  const rows: Record<string, unknown>[] = (lists[0] ?? []).map(() => ({}))
  for (const [name, value] of Object.entries(known)) for (const row of rows) row[name] = value
  for (const [index, column] of columns.entries())
    for (const [place, row] of rows.entries())
      row[column.name] = decodeValue(column, lists[index]?.[place])
  return rows
}

function decodeValue({ kind }: Column, value: unknown): unknown {
  if (value === null || value === undefined) return null
  return kind === 'timestamp' ? decodeTime(value as string) : value
}

/** A time in UTC has no offset, or one of zero; another has one of at least six characters. */
function decodeTime(text: string): string {
  const time = text.endsWith('+00:00') ? text.slice(0, -6) : text
  if (time.length > '2026-01-01T00:00:00.000'.length) return new Date(text).toISOString()
  // Zeros at the end are left out. Putting them back takes a tenth of the time of a `Date`.
  return `${time}${'.000'.slice(time.length - '2026-01-01T00:00:00'.length)}Z`
}

/** An error as Postgres reports it; `detail` is called `details` by PostgREST. */
export interface SqlError {
  readonly code?: string | undefined
  readonly message?: string | undefined
  readonly detail?: string | null | undefined
}

/** The refusal that `apply_changes` raised, or null where the error is another. */
export function refusal(error: SqlError, cause: unknown): StorageError | null {
  if (!error.code?.startsWith('PT4') || !error.detail?.startsWith('{')) return null
  const { code, resource, key, fields } = JSON.parse(error.detail) as {
    code: StorageErrorCode
    resource: string
    key: string
    fields?: string[]
  }
  return new StorageError(code, { resource, key, fields: fields ?? [], cause })
}

/**
 * What an SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html) means for the
 * statement that met it:
 * `retry` rolled back whole, and may well succeed if repeated;
 * `lost` the connection went, so nobody knows how the statement ended;
 * `unavailable` rolled back whole, for want of something an operator can give;
 * `schema` the tables or functions are not those of this release;
 * `bug` rolled back whole, and would be again.
 */
export function meaningOf(state: string): 'retry' | 'lost' | 'unavailable' | 'schema' | 'bug' {
  if (state === '40001' || state === '40P01') return 'retry'
  // A commit may have been written before the server found itself unable to go on.
  if (/^(08|25P0[34]|57P|58|XX)/.test(state)) return 'lost'
  if (/^(3F|42P01|42703|42883)/.test(state)) return 'schema'
  // Resources, locks, cancelled statements, passwords and permissions, read-only replicas.
  if (/^(53|55|57|28|25006|3D000|42501)/.test(state)) return 'unavailable'
  return 'bug'
}
