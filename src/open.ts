import type { Identity } from '../adapters/identity/port.js'
import { openIdentity } from '../adapters/identity/registry.js'
import type { LlmProvider } from '../adapters/llm/port.js'
import { openProviders } from '../adapters/llm/registry.js'
import type { Storage } from '../adapters/storage/port.js'
import { openDriver, type StorageEntry } from '../adapters/storage/registry.js'
import { createStorage } from '../adapters/storage/storage.js'
import type { Environment } from '../schemas/environment.js'
import { chooseStorage, readProviders, type StorageChoice } from './configuration.js'
import { createKeyring } from './encryption.js'
import { knowsKeys, verifyKeys } from './key-canaries.js'
import {
  findKeys,
  type Keys,
  keysForCommand,
  lacksKeys,
  makeKeys,
  parseEncryptionKeys
} from './keys.js'

/** What the environment asks for, opened and checked: the API and the command line start here. */
export interface Opened {
  readonly choice: StorageChoice
  readonly keys: Keys
  readonly storage: Storage
  readonly identity: Identity
}

export interface OpenOptions {
  /** Whether what is missing is made: a database file, keys, what tells keys. True by default. */
  readonly mayMake?: boolean
}

/** @throws ConfigurationError, StorageError or DecryptionError, with a message for the operator. */
export async function openBackend(
  env: Environment,
  { mayMake = true }: OpenOptions = {}
): Promise<Opened> {
  const choice = chooseStorage(env)
  const { entry } = choice
  const found = findKeys(env, entry) ?? (mayMake ? null : keysForCommand(env, entry))
  const storage = createStorage(await openDriver(entry, env, mayMake))
  try {
    const keys = found ?? (await makeMissingKeys(env, entry, storage))
    await verifyKeys(storage, keys.keyring, mayMake)
    const identity = await openIdentity({
      kind: entry.identity,
      env,
      storage,
      secret: keys.authSecret
    })
    return { choice, keys, storage, identity }
  } catch (error) {
    await storage.close()
    throw error
  }
}

/** Comes after the storage is open: nothing is made beside one that is refused, or has other keys. */
async function makeMissingKeys(
  env: Environment,
  entry: StorageEntry,
  storage: Storage
): Promise<Keys> {
  if (env.ENCRYPTION_KEY)
    await verifyKeys(storage, createKeyring(parseEncryptionKeys(env.ENCRYPTION_KEY)), false)
  else if (await knowsKeys(storage)) {
    // Where another server starts at the same moment, they are there by now.
    const found = findKeys(env, entry)
    if (!found) throw lacksKeys(env, entry)
    return found
  }
  return makeKeys(env, entry)
}

/** The LLM providers that the environment names. @throws ConfigurationError */
export function openLlm(env: Environment): Promise<readonly LlmProvider[]> {
  return openProviders(readProviders(env), {
    answerMs: env.LLM_TIMEOUT_MS,
    silenceMs: env.LLM_SILENCE_MS
  })
}
