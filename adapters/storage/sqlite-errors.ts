import { StorageError } from './errors.js'

/** Runs a synchronous read, with SQLite's errors in the port's terms. */
export function guard<T>(read: () => T): T {
  try {
    return read()
  } catch (error) {
    throw storageError(error)
  }
}

/** SQLite's primary result codes (https://sqlite.org/rescode.html) that an operator can act on. */
export const outages: Readonly<Record<string, string>> = {
  SQLITE_BUSY: 'Another process holds the database lock.',
  SQLITE_LOCKED: 'Another process holds the database lock.',
  SQLITE_FULL: 'The disk, or the quota of the database file, is full.',
  SQLITE_IOERR: 'The disk answered with an error.',
  SQLITE_READONLY: 'The database file, or its folder, is read-only.',
  SQLITE_CANTOPEN: 'The database file cannot be opened.',
  SQLITE_CORRUPT: 'The database file is damaged.',
  SQLITE_NOTADB: 'The file is not an SQLite database.'
}

export function storageError(error: unknown): unknown {
  const message = outageOf(error)
  return message ? new StorageError('unavailable', { cause: error }, message) : error
}

export function outageOf(error: unknown): string | undefined {
  const [primary = ''] = /^SQLITE_[A-Z]+/.exec(codeOf(error)) ?? []
  return outages[primary]
}

export function codeOf(error: unknown): string {
  const code = (error as { code?: unknown } | null)?.code
  return typeof code === 'string' ? code : ''
}
