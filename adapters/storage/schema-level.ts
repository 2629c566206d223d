import { isStorageError, StorageError } from './errors.js'
import {
  type AppliedMigration,
  changedMigrations,
  describeChanged,
  type Migration,
  missingMigrations,
  unknownMigrations
} from './migrations.js'

/**
 * Compares the migrations of a database with those of this release. A newer database is accepted
 * with a warning, so that instances of two releases can serve it while one replaces the other; so is
 * one that an edited file has made, which the runner of migrations refuses and which may serve all the same.
 * @throws StorageError `schema_outdated` where migrations are missing.
 */
export function assertSchemaLevel(
  known: readonly Migration[],
  applied: readonly AppliedMigration[],
  onWarning: (message: string) => void
): void {
  const missing = missingMigrations(known, applied)
  if (missing.length) throw outdated(missing)
  const unknown = unknownMigrations(known, applied)
  if (unknown.length)
    onWarning(`The database has migrations of a newer release: ${unknown.join(', ')}.`)
  const changed = changedMigrations(known, applied)
  if (changed.length)
    onWarning(`${describeChanged(changed)} Until then \`npm run migrate\` refuses it.`)
}

/** @throws StorageError where Postgres keeps texts in anything but UTF-8, and refuses most of them. */
export function assertEncoding(encoding: string): void {
  if (encoding === 'UTF8') return
  throw new StorageError(
    'unavailable',
    {},
    `The database is encoded as ${encoding}, which does not hold every text. Make one with: create database … encoding 'UTF8' template template0`
  )
}

/**
 * For those who ask a database for its migrations: where it has not even a table of them, it lacks all.
 * @throws StorageError, the error itself or `schema_outdated` with their names.
 */
export function namingMigrations(known: readonly Migration[]) {
  return (error: unknown): never => {
    if (!isStorageError(error, 'schema_outdated')) throw error
    throw outdated(known, error)
  }
}

/** Says which migrations a database needs and how it gets them. */
function outdated(missing: readonly Migration[], cause?: unknown): StorageError {
  const files = missing.map(({ version }) => `migrations/postgres/${version}.sql`).join(', ')
  return new StorageError(
    'schema_outdated',
    { cause },
    `The database lacks migrations: ${files}. Apply them with \`npm run migrate\`, with psql, ` +
      'in the Supabase SQL editor, or with `supabase db push`.'
  )
}
