import { randomBytes, randomUUID } from 'node:crypto'
import { existsSync, linkSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
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
  /** None where ENCRYPTION_KEY was set: it would be taken for that one as soon as that is lost. */
  readonly encryption_key?: string
}

/** The id of a key that is configured without one. */
const DEFAULT_ID = 'default'

/**
 * The keys of the environment, and of the key file where it lacks some. Null where these are yet to be
 * made: see `makeKeys`. Where rows end with the process, so do keys that are made for them.
 *
 * @throws ConfigurationError for a missing or weak key in production, and for a file that is of no use.
 */
export function findKeys(env: Environment, entry: StorageEntry): Keys | null {
  const { NODE_ENV, AUTH_SECRET, ENCRYPTION_KEY } = env
  // Both say what is wrong with a key, while nothing is opened or made.
  if (NODE_ENV === 'production') assertStrong(env, entry)
  else if (ENCRYPTION_KEY) parseEncryptionKeys(ENCRYPTION_KEY)
  if (ENCRYPTION_KEY && (AUTH_SECRET || !signsTokens(entry))) return keysOf(env, null, null)
  if (!entry.isKept) return keysOf(env, drawKeys(env), 'made for this run')
  const path = keyFileOf(env, entry)
  const kept = readKeyFile(path, env)
  if (!kept) return null
  // Whoever made it may have been killed before it could.
  flushFolder(dirname(path))
  return keysOf(env, kept, `kept in ${path}`)
}

/**
 * Makes what the environment lacks, and keeps it, so that the next start reads what this one wrote and
 * signs nobody out. What SQLite has committed outlives a power cut, and so must the keys to it.
 *
 * @throws ConfigurationError where the file cannot be made.
 */
export function makeKeys(env: Environment, entry: StorageEntry): Keys {
  const path = keyFileOf(env, entry)
  const isNew = makeKeyFile(path, env)
  const kept = readKeyFile(path, env)
  if (!kept) throw new ConfigurationError(`The key file ${path} cannot be read.`)
  flushFolder(dirname(path))
  return keysOf(env, kept, isNew ? `made now and kept in ${path}: back it up` : `kept in ${path}`)
}

/**
 * For a command, which makes no keys: nobody signs in to it, so that the secret of tokens may be any.
 *
 * @throws ConfigurationError where there is no encryption key.
 */
export function keysForCommand(env: Environment, entry: StorageEntry): Keys {
  if (!env.ENCRYPTION_KEY) throw lacksKeys(env, entry)
  return keysOf(env, drawKeys(env), null)
}

/** What to say where the keys that a database was used with are not to be found. */
export function lacksKeys(env: Environment, entry: StorageEntry): ConfigurationError {
  return new ConfigurationError(
    `ENCRYPTION_KEY is not set, and there is no key file ${keyFileOf(env, entry)}: set it to the keys that the database was used with, or put the file there that has them. Where they are lost, see docs/secrets.md.`
  )
}

/** `key`, or `id:key,id:key` with the writing key first; each 32 bytes in base64. */
export function parseEncryptionKeys(text: string): [EncryptionKey, ...EncryptionKey[]] {
  const keys = text.split(',').map((part): EncryptionKey => {
    const colon = part.indexOf(':')
    const id = colon < 0 ? DEFAULT_ID : part.slice(0, colon).trim()
    const encoded = part.slice(colon + 1).trim()
    const key = Buffer.from(encoded, 'base64')
    // Buffer.from passes over what is no base64, and over all that follows its end: another key, say.
    const isKey = /^[A-Za-z0-9+/_-]{43}=?$/.test(encoded)
    if (!/^[A-Za-z0-9._-]{1,64}$/.test(id) || !isKey)
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
  if (AUTH_SECRET && isGuessableText(AUTH_SECRET.trim()))
    throw new ConfigurationError(
      'AUTH_SECRET can be guessed. Make one with: openssl rand -base64 32'
    )
  if (!ENCRYPTION_KEY)
    throw new ConfigurationError(
      'ENCRYPTION_KEY is not set, and production needs it. Make one with: openssl rand -base64 32'
    )
  if (parseEncryptionKeys(ENCRYPTION_KEY).some(({ key }) => isGuessable(key, FEWEST_BYTES)))
    throw new ConfigurationError(
      'ENCRYPTION_KEY can be guessed. Make one with: openssl rand -base64 32'
    )
}

/** Different bytes that a key of 32 random ones has: fewer come less than once in 10^16 draws. */
const FEWEST_BYTES = 16

/**
 * By the different characters that a text of 32 drawn ones has. Fewer come once in 10^7 draws at most, of
 * the 16 hexadecimal digits and of the 32 characters of base32.
 */
function isGuessableText(text: string): boolean {
  return isGuessable(Buffer.from(text), /^[0-9a-f-]+$/i.test(text) ? 8 : 12)
}

/**
 * Whether a key was typed rather than drawn: it has few different bytes, is one text again and again,
 * counts up or down (as the alphabet does), or says what it is.
 */
function isGuessable(key: Buffer, fewest: number): boolean {
  const text = key.toString('latin1')
  const telling = /^(.+?)\1+$|change|example|secret|password/is
  return new Set(key).size < fewest || countsMostly(key) || telling.test(text)
}

/** Whether most neighbouring bytes differ by the same step, as in an alphabet. */
function countsMostly(key: Buffer): boolean {
  const steps = [...key.subarray(1)].map((byte, index) => byte - (key[index] as number))
  const repeated = steps.filter((step, index) => step === steps[index - 1])
  return repeated.length > steps.length / 2
}

function keysOf(
  { AUTH_SECRET, ENCRYPTION_KEY }: Environment,
  kept: KeyFile | null,
  origin: string | null
): Keys {
  const encryption = parseEncryptionKeys(ENCRYPTION_KEY ?? kept?.encryption_key ?? '')
  return {
    authSecret: AUTH_SECRET ?? kept?.auth_secret ?? '',
    keyring: createKeyring(encryption),
    origin
  }
}

function drawKeys({ ENCRYPTION_KEY }: Environment): KeyFile {
  const draw = () => randomBytes(32).toString('base64')
  return ENCRYPTION_KEY ? { auth_secret: draw() } : { auth_secret: draw(), encryption_key: draw() }
}

function keyFileOf(env: Environment, { file, kind }: StorageEntry): string {
  return file ? `${file(env)}.keys` : `./data/${kind}.keys`
}

/**
 * Linked into place whole, so that two processes that start together read the same keys. Returns
 * false where the other was first.
 */
function makeKeyFile(path: string, env: Environment): boolean {
  // Not named by the process: in containers all are number 1.
  const draft = `${path}.${randomUUID()}`
  try {
    makeFolder(dirname(path))
    // Node.js heeds `flush` where no encoding is given.
    writeFileSync(draft, JSON.stringify(drawKeys(env)), { mode: 0o600, flag: 'wx', flush: true })
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
    // With `force` it would still throw below a file that is no folder, and hide the reason.
    if (existsSync(draft)) rmSync(draft)
  }
}

const INSTEAD_OF_FILE =
  'Set AUTH_SECRET, and ENCRYPTION_KEY to the keys that the database was used with, or put the file back as it was.'

/** Null where there is no such file. */
function readKeyFile(path: string, { ENCRYPTION_KEY }: Environment): KeyFile | null {
  try {
    const { auth_secret, encryption_key } = JSON.parse(readFileSync(path, 'utf8'))
    const isWhole = Boolean(ENCRYPTION_KEY) || areEncryptionKeys(encryption_key)
    if (isWhole && auth_secret && typeof auth_secret === 'string')
      return { auth_secret, encryption_key }
  } catch (cause) {
    const { code = 'it is not JSON as it was written' } = cause as NodeJS.ErrnoException
    if (code === 'ENOENT') return null
    const message = `The key file ${path} cannot be read: ${code}. ${INSTEAD_OF_FILE}`
    throw new ConfigurationError(message, { cause })
  }
  throw new ConfigurationError(
    `The key file ${path} cannot be used: it lacks auth_secret, or an encryption_key of 32 bytes in base64 where ENCRYPTION_KEY is not set. ${INSTEAD_OF_FILE}`
  )
}

function areEncryptionKeys(value: unknown): boolean {
  try {
    return typeof value === 'string' && parseEncryptionKeys(value).length > 0
  } catch {
    return false
  }
}
