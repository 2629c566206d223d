import { randomBytes, randomUUID } from 'node:crypto'
import { linkSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { flushFolder, makeFolder } from '../adapters/durable-folders.js'
import type { StorageEntry } from '../adapters/storage/registry.js'
import type { Environment } from '../schemas/environment.js'
import { ConfigurationError } from './configuration.js'
import { createKeyring, type EncryptionKey, type Keyring } from './encryption.js'

export interface Keys {
  readonly authSecret: string
  readonly keyring: Keyring
  /** Where keys that nobody configured come from, for the start-up message. */
  readonly origin: string | null
}

interface KeyFile {
  readonly auth_secret: string
  readonly encryption_key: string
}

/** The id of a key that is configured without one. */
const DEFAULT_ID = 'default'

/**
 * Takes the keys from the environment. In development what is missing is made, and kept where the
 * rows outlive the process, so that the next start reads what this one wrote and signs nobody out.
 *
 * @param mayMake whether keys that are to be kept may be made
 * @throws ConfigurationError for a missing or weak key in production.
 */
export function loadKeys(env: Environment, entry: StorageEntry, mayMake = true): Keys {
  const { AUTH_SECRET, ENCRYPTION_KEY } = env
  if (env.NODE_ENV === 'production') assertStrong(env, entry)
  let made: KeyFile | undefined
  let origin: string | null = null
  const isComplete = ENCRYPTION_KEY && (AUTH_SECRET || !signsTokens(entry))
  if (!isComplete && !entry.isKept) {
    origin = 'made for this run'
    made = makeKeys()
  } else if (!isComplete) {
    const file = entry.file ? `${entry.file(env)}.keys` : `./data/${entry.kind}.keys`
    const found = mayMake ? readOrMakeKeyFile(file) : findKeyFile(file, env)
    origin = found.isNew ? `made now and kept in ${file}: back it up` : `kept in ${file}`
    made = found.keys
  }
  const encryption = parseEncryptionKeys(ENCRYPTION_KEY ?? made?.encryption_key ?? '')
  return {
    authSecret: AUTH_SECRET ?? made?.auth_secret ?? '',
    keyring: createKeyring(encryption),
    origin
  }
}

/** `key`, or `id:key,id:key` with the writing key first; each 32 bytes in base64. */
export function parseEncryptionKeys(text: string): [EncryptionKey, ...EncryptionKey[]] {
  const keys = text.split(',').map((part): EncryptionKey => {
    const colon = part.indexOf(':')
    const id = colon < 0 ? DEFAULT_ID : part.slice(0, colon).trim()
    const key = Buffer.from(part.slice(colon + 1).trim(), 'base64')
    if (!/^[A-Za-z0-9._-]{1,64}$/.test(id) || key.length !== 32)
      throw new ConfigurationError(
        'ENCRYPTION_KEY must be 32 bytes in base64, or id:key,id:key. Make one with: openssl rand -base64 32'
      )
    return { id, key }
  })
  if (new Set(keys.map(({ id }) => id)).size < keys.length)
    throw new ConfigurationError('ENCRYPTION_KEY names two keys with the same id.')
  return keys as [EncryptionKey, ...EncryptionKey[]]
}

/** Supabase Auth signs its tokens itself. */
function signsTokens({ identity }: StorageEntry): boolean {
  return identity === 'local'
}

function assertStrong({ AUTH_SECRET, ENCRYPTION_KEY }: Environment, entry: StorageEntry): void {
  if (!AUTH_SECRET && signsTokens(entry))
    throw new ConfigurationError(
      'AUTH_SECRET is not set, and production needs it. Make one with: openssl rand -base64 32'
    )
  if (AUTH_SECRET && isGuessable(Buffer.from(AUTH_SECRET)))
    throw new ConfigurationError(
      'AUTH_SECRET can be guessed. Make one with: openssl rand -base64 32'
    )
  if (!ENCRYPTION_KEY)
    throw new ConfigurationError(
      'ENCRYPTION_KEY is not set, and production needs it. Make one with: openssl rand -base64 32'
    )
  if (parseEncryptionKeys(ENCRYPTION_KEY).some(({ key }) => isGuessable(key)))
    throw new ConfigurationError(
      'ENCRYPTION_KEY can be guessed. Make one with: openssl rand -base64 32'
    )
}

/**
 * Whether a key was typed rather than drawn: it has few different bytes (32 random ones hold fewer
 * than 16 about once in 10^13 draws), counts up or down (as the alphabet does), or says what it is.
 */
function isGuessable(key: Buffer): boolean {
  const telling = /change|example|secret|password/i
  return new Set(key).size < 16 || countsMostly(key) || telling.test(key.toString('latin1'))
}

/** Whether most neighbouring bytes differ by the same step, as in an alphabet. */
function countsMostly(key: Buffer): boolean {
  const steps = [...key.subarray(1)].map((byte, index) => byte - (key[index] as number))
  const repeated = steps.filter((step, index) => step === steps[index - 1])
  return repeated.length > steps.length / 2
}

function makeKeys(): KeyFile {
  return {
    auth_secret: randomBytes(32).toString('base64'),
    encryption_key: randomBytes(32).toString('base64')
  }
}

interface FoundKeys {
  readonly keys: KeyFile
  readonly isNew: boolean
}

/**
 * What SQLite has committed outlives a power cut, and so must the keys to it. Each server flushes
 * their name: the process that made them may have been killed before it could, or be about to.
 */
function readOrMakeKeyFile(path: string): FoundKeys {
  const known = readKeyFile(path)
  const isNew = known === null && makeKeyFile(path)
  const keys = known ?? (readKeyFile(path) as KeyFile)
  flushFolder(dirname(path))
  return { keys, isNew }
}

/**
 * Linked into place whole, so that two processes that start together read the same keys. Returns
 * false where the other was first.
 */
function makeKeyFile(path: string): boolean {
  // Not named by the process: in containers all are number 1.
  const draft = `${path}.${randomUUID()}`
  try {
    makeFolder(dirname(path))
    // Node.js heeds `flush` where no encoding is given.
    writeFileSync(draft, JSON.stringify(makeKeys()), { mode: 0o600, flag: 'wx', flush: true })
    linkSync(draft, path)
    return true
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (code === 'EEXIST') return false
    throw new ConfigurationError(
      `The key file ${path} cannot be made (${code}). Give it a folder that can be written to, on a disk with room, or set AUTH_SECRET and ENCRYPTION_KEY.`,
      { cause }
    )
  } finally {
    rmSync(draft, { force: true })
  }
}

/** Nobody signs in to a command, so that a secret which only tokens need may be any. */
function findKeyFile(path: string, { ENCRYPTION_KEY }: Environment): FoundKeys {
  const keys = readKeyFile(path)
  if (!keys && !ENCRYPTION_KEY)
    throw new ConfigurationError(
      `ENCRYPTION_KEY is not set, and there is no key file ${path}: set it to the keys of the server.`
    )
  return { keys: keys ?? makeKeys(), isNew: false }
}

/** Null where there is no such file. */
function readKeyFile(path: string): KeyFile | null {
  try {
    const keys: Partial<KeyFile> = JSON.parse(readFileSync(path, 'utf8'))
    if (keys.auth_secret && keys.encryption_key) return keys as KeyFile
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw new ConfigurationError(`The key file ${path} cannot be read.`, { cause: error })
  }
  throw new ConfigurationError(
    `The key file ${path} cannot be used: it lacks auth_secret or encryption_key.`
  )
}
