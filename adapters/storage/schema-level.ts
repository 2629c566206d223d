import { StorageError } from './errors.js'
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
  const missing = known.map(({ version }) => version).filter((each) => !applied.includes(each))
  if (missing.length) throw missingMigrations(missing)
  const unknown = unknownMigrations(
    known,
    applied.map((version) => ({ version, checksum: '' }))
  )
  if (unknown.length)
    onWarning(`The database has migrations of a newer release: ${unknown.join(', ')}.`)
}

/** Says which migrations a database needs and how it gets them. */
export function missingMigrations(versions: readonly string[], cause?: unknown): StorageError {
  const files = versions.map((version) => `migrations/postgres/${version}.sql`).join(', ')
  return new StorageError(
    'schema_outdated',
    { cause },
    `The database lacks migrations: ${files}. Apply them with \`npm run migrate\`, with psql, ` +
      'in the Supabase SQL editor, or with `supabase db push`.'
  )
}
