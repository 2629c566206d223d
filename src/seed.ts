import { runCommand } from './command.js'
import { ConfigurationError, loadEnvironmentFiles, readEnvironment } from './configuration.js'
import { demoLogin, demoPassword, seedDemoData } from './demo-data.js'
import { openBackend } from './open.js'

/** `npm run seed`: fills the chosen storage with the demo data; a second run changes nothing. */
runCommand(async () => {
  loadEnvironmentFiles()
  const env = readEnvironment(process.env)
  const password = demoPassword(env)
  const { choice, storage, identity, keys } = await openBackend(env)
  try {
    if (choice.entry.kind === 'memory')
      throw new ConfigurationError(
        'The demo data would be gone with this process: set SQLITE_PATH, DATABASE_URL, or SUPABASE_URL ' +
          'and SUPABASE_SERVICE_ROLE_KEY. A server in memory makes its own.'
      )
    await seedDemoData(storage, identity, keys.keyring, password)
  } finally {
    await storage.close()
  }
  process.stdout.write(`The demo data is in ${choice.entry.kind}. Sign in as ${demoLogin.email}.\n`)
})
