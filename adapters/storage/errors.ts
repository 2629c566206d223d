/** Everything that can go wrong in a storage. The HTTP layer maps each to a problem, in one place. */
const storageErrorCodes = {
  /** A key or a unique field is taken. */
  conflict: 'the value is taken',
  /** The row changed since `expect` was read. */
  stale: 'the row has changed',
  /** There is no such row in this tenant. */
  not_found: 'there is no such row',
  /** A reference points at no row of this tenant. */
  reference_missing: 'the referenced row does not exist',
  /** Other rows point at the one to be deleted. */
  reference_in_use: 'other rows refer to this one',
  /** A cursor that this list did not hand out. */
  bad_cursor: 'the cursor does not belong to this list',
  /** Nothing was done; the request never left, or was rolled back whole. */
  unavailable: 'the storage cannot be reached',
  /** The commit was sent and no answer came: it may or may not have been stored. */
  outcome_unknown: 'the storage did not say whether it stored the change',
  closed: 'the storage is closed',
  /** The migrations of this release do not match the database. */
  schema_outdated: 'the database schema does not fit this release',
  /** A package that this storage needs is not installed. */
  driver_missing: 'the database driver is not installed'
} as const

export type StorageErrorCode = keyof typeof storageErrorCodes

export interface StorageErrorDetails {
  readonly resource?: string
  readonly key?: string
  /** The columns concerned; `tenant_id` only where it is the tenant that is missing. */
  readonly fields?: readonly string[]
  readonly cause?: unknown
}

export class StorageError extends Error {
  override readonly name = 'StorageError'
  readonly code: StorageErrorCode
  readonly resource: string | undefined
  readonly key: string | undefined
  readonly fields: readonly string[]

  constructor(code: StorageErrorCode, details: StorageErrorDetails = {}, message?: string) {
    const subject = [details.resource, details.key].filter(Boolean).join(' ')
    super(message ?? [subject, storageErrorCodes[code]].filter(Boolean).join(': '), {
      cause: details.cause
    })
    this.code = code
    this.resource = details.resource
    this.key = details.key
    this.fields = details.fields ?? []
  }
}

/** Whether it is an error of a storage with one of the codes. */
export function isStorageError(
  error: unknown,
  ...codes: readonly StorageErrorCode[]
): error is StorageError {
  return error instanceof StorageError && codes.includes(error.code)
}
