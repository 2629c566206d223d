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
  readonly checksum: string
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
  const checksums = new Map(applied.map(({ version, checksum }) => [version, checksum]))
  const changed = known.filter(
    ({ version, checksum }) => checksums.has(version) && checksums.get(version) !== checksum
  )
  if (changed.length)
    throw new StorageError(
      'schema_outdated',
      {},
      `The database was made with other migrations of these names: ${changed.map(({ version }) => version).join(', ')}. ` +
        'Start the release that made it, or restore their files where these were edited.'
    )
  return known.filter(({ version }) => !checksums.has(version))
}

/** Migrations that the database has and this release does not know, so made by a newer one. */
export function unknownMigrations(
  known: readonly Migration[],
  applied: readonly AppliedMigration[]
): string[] {
  const versions = new Set(known.map(({ version }) => version))
  return applied.map(({ version }) => version).filter((version) => !versions.has(version))
}
