import { isStorageError, StorageError } from './errors.js'
import { type Migration, unknownMigrations } from './migrations.js'

/**
 * Compares the migrations of a database with those of this release. A newer database is accepted
 * with a warning, so that instances of two releases can serve it while one replaces the other.
 * @throws StorageError `schema_outdated` where migrations are missing.
 */
export function assertSchemaLevel(
  known: readonly Migration[],
  applied: readonly string[],
  onWarning: (message: string) => void
): void {
  const missing = known.filter(({ version }) => !applied.includes(version))
  if (missing.length) throw missingMigrations(missing)
  const unknown = unknownMigrations(
    known,
    applied.map((version) => ({ version, checksum: '' }))
  )
  if (unknown.length)
    onWarning(`The database has migrations of a newer release: ${unknown.join(', ')}.`)
}

/**
 * For those who ask a database for its migrations: where it has not even a table of them, it lacks all.
 * @throws StorageError, the error itself or `schema_outdated` with their names.
 */
export function namingMigrations(known: readonly Migration[]) {
  return (error: unknown): never => {
    if (!isStorageError(error, 'schema_outdated')) throw error
    throw missingMigrations(known, error)
  }
}

/** Says which migrations a database needs and how it gets them. */
function missingMigrations(missing: readonly Migration[], cause?: unknown): StorageError {
  const files = missing.map(({ version }) => `migrations/postgres/${version}.sql`).join(', ')
  return new StorageError(
    'schema_outdated',
    { cause },
    `The database lacks migrations: ${files}. Apply them with \`npm run migrate\`, with psql, ` +
      'in the Supabase SQL editor, or with `supabase db push`.'
  )
}
