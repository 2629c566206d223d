import { hash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { packageFile } from '../package-files.js'
import { StorageError } from './errors.js'

/** A file of `migrations/`: its name without `.sql` is its version, and versions sort by time. */
export interface Migration {
  readonly version: string
  readonly sql: string
  /** SHA-256 of the file, in hex. */
  readonly checksum: string
}

/** What a database says of a migration it has. */
export interface AppliedMigration {
  readonly version: string
  /** Null where psql, the SQL editor or the Supabase CLI applied it: it is taken for the same file. */
  readonly checksum: string | null
}

/** The migrations that this release brings, oldest first. */
export function readMigrations(dialect: 'sqlite' | 'postgres'): Migration[] {
  const folder = packageFile(`migrations/${dialect}/`)
  return readdirSync(folder)
    .filter((name) => name.endsWith('.sql'))
    .sort()
    .map((name) => {
      const sql = readFileSync(new URL(name, folder), 'utf8')
      const checksum = hash('sha256', sql, 'hex')
      return { version: name.slice(0, -'.sql'.length), sql, checksum }
    })
}

/**
 * What is still to be applied.
 * @throws StorageError `schema_outdated` where an applied file was another.
 */
export function pendingMigrations(
  known: readonly Migration[],
  applied: readonly AppliedMigration[]
): Migration[] {
  const changed = changedMigrations(known, applied)
  if (changed.length) throw new StorageError('schema_outdated', {}, describeChanged(changed))
  return missingMigrations(known, applied)
}

export function describeChanged(versions: readonly string[]): string {
  return (
    `The database was made with other migrations of these names: ${versions.join(', ')}. ` +
    'Start the release that made it, or restore their files where these were edited.'
  )
}

/** Migrations that the database does not have. */
export function missingMigrations(
  known: readonly Migration[],
  applied: readonly AppliedMigration[]
): Migration[] {
  const versions = new Set(applied.map(({ version }) => version))
  return known.filter(({ version }) => !versions.has(version))
}

/** Migrations that the database has from another file than that of this release. */
export function changedMigrations(
  known: readonly Migration[],
  applied: readonly AppliedMigration[]
): string[] {
  const checksums = new Map(applied.map(({ version, checksum }) => [version, checksum]))
  return known
    .filter(({ version, checksum }) => (checksums.get(version) ?? checksum) !== checksum)
    .map(({ version }) => version)
}

/** Migrations that the database has and this release does not know, so made by a newer one. */
export function unknownMigrations(
  known: readonly Migration[],
  applied: readonly AppliedMigration[]
): string[] {
  const versions = new Set(known.map(({ version }) => version))
  return applied.map(({ version }) => version).filter((version) => !versions.has(version))
}
