import type { Identity } from '../adapters/identity/port.js'
import type { Environment } from '../schemas/environment.js'
import { runCommand } from './command.js'
import {
  ConfigurationError,
  chooseStorage,
  loadEnvironmentFiles,
  readEnvironment
} from './configuration.js'
import { demoPassword, seedDemoData } from './demo-data.js'
import { demoLogin } from './demo-login.js'
import { openBackend } from './open.js'
import type { UserRow } from './users.js'

/** `npm run seed`: fills the chosen storage with the demo data; a second run changes nothing. */
runCommand(async () => {
  loadEnvironmentFiles()
  const env = readEnvironment(process.env)
  const password = await demoPassword(env)
  if (!chooseStorage(env).entry.isKept)
    throw new ConfigurationError(
      'The demo data would be gone with this process: set SQLITE_PATH, DATABASE_URL, or SUPABASE_URL ' +
        'and SUPABASE_SERVICE_ROLE_KEY. A server in memory makes its own.'
    )
  const { storage, identity, keys } = await openBackend(env)
  try {
    const { admin, signsIn } = await seedDemoData(storage, identity, keys.keyring, password)
    if (!signsIn) await assertNotKnown(env, identity, admin)
    const how = signsIn
      ? `Sign in as ${admin.email}.`
      : `${admin.email} was there before, and keeps the password it had.`
    process.stdout.write(`The demo data is in ${storage.kind}. ${how}\n`)
  } finally {
    await storage.close()
  }
})

/** @throws ConfigurationError in production where a run before this one set the known password. */
async function assertNotKnown(env: Environment, identity: Identity, admin: UserRow): Promise<void> {
  if (env.NODE_ENV !== 'production' || env.ALLOW_DEMO_PASSWORD) return
  if (await identity.checkPassword(admin, demoLogin.password))
    throw new ConfigurationError(
      `${admin.email} was there before, and has the password that everybody knows: change it with ` +
        'PATCH /api/users/me now, or set ALLOW_DEMO_PASSWORD=true if that is meant.'
    )
}
