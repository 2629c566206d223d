import {
  type MigrationStatus,
  migratePostgres,
  migrationSql,
  migrationStatus
} from '../adapters/storage/postgres-migrate.js'
import { runCommand } from './command.js'
import { loadEnvironmentFiles, readEnvironment } from './configuration.js'

const usage = `Usage: npm run migrate [-- status | --print]

Brings the Postgres at DATABASE_URL, or at SUPABASE_DB_URL, to the schema of this release.
  status   lists the migrations; exits with 1 where some are missing or were changed
  --print  prints the SQL that is missing, or all of it without a database
`

async function main(args: readonly string[]): Promise<number> {
  loadEnvironmentFiles()
  const { DATABASE_URL, SUPABASE_DB_URL } = readEnvironment(process.env)
  const url = DATABASE_URL ?? SUPABASE_DB_URL
  const [command = 'apply', ...rest] = args
  if (rest.length || !['apply', 'status', '--print'].includes(command)) return fail(usage)
  if (command === '--print') return print(await migrationSql(url))
  if (!url) return fail('Set DATABASE_URL, or SUPABASE_DB_URL, to the database to migrate.\n')
  if (command === 'status') return showStatus(await migrationStatus(url))
  const applied = await migratePostgres({ url, onApplied: (version) => print(`${version}\n`) })
  return print(applied.length ? '' : 'Nothing to apply.\n')
}

function showStatus(migrations: readonly MigrationStatus[]): number {
  for (const { version, state, appliedAt } of migrations)
    print(`${[state.padEnd(8), version, appliedAt].filter(Boolean).join('  ')}\n`)
  return migrations.every(({ state }) => state === 'applied' || state === 'newer') ? 0 : 1
}

function print(text: string): number {
  process.stdout.write(text)
  return 0
}

function fail(text: string): number {
  process.stderr.write(text)
  return 2
}

runCommand(async () => {
  process.exitCode = await main(process.argv.slice(2))
})
