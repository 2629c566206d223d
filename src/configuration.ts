import { readFileSync } from 'node:fs'
import { isIP } from 'node:net'
import { parseEnv } from 'node:util'
import type { ErrorObject } from 'ajv'
import type { ProviderSettings } from '../adapters/llm/registry.js'
import { type StorageEntry, storages } from '../adapters/storage/registry.js'
import { Environment, LlmProviders } from '../schemas/environment.js'
import { decodeUtf8 } from './utf8.js'
import {
  compiledWhenNeeded,
  createAjv,
  describeViolation,
  pointerOf,
  readingText
} from './validator.js'

/** A mistake in the configuration: the message names the variable and is for the operator. */
export class ConfigurationError extends Error {
  override readonly name = 'ConfigurationError'
}

/**
 * Adds the files' variables to the process's: what is set already wins, then `.env.local`.
 *
 * @throws ConfigurationError for a file that is there and cannot be read: without it, production would
 * start as a demo. To `process.loadEnvFile` it would not be there.
 */
export function loadEnvironmentFiles(): void {
  for (const file of ['.env.local', '.env'])
    for (const [name, value] of Object.entries(parseEnv(readIfThere(file))))
      process.env[name] ??= value
}

function readIfThere(file: string): string {
  let bytes: Buffer
  try {
    bytes = readFileSync(file)
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (code === 'ENOENT') return ''
    throw new ConfigurationError(
      `${file} cannot be read (${code}). Make it a file that this user may read, or remove it.`,
      { cause }
    )
  }
  const text = decodeUtf8(bytes)
  // Some editors of Windows write UTF-16, in which no variable would be found.
  if (text === null || text.includes('\0'))
    throw new ConfigurationError(`${file} is not text in UTF-8. Save it in UTF-8.`)
  return text
}

const check = readingText(createAjv({ allErrors: false }).compile(Environment), Environment)

/** @throws ConfigurationError for the first variable that is not as declared. */
export function readEnvironment(source: NodeJS.ProcessEnv): Environment {
  // `NAME=` in a file means that it is not set.
  const given = Object.keys(Environment.properties)
    .filter((name) => source[name])
    .map((name) => [name, source[name]])
  const environment = Object.fromEntries(given)
  if (check(environment)) {
    assertPorts(environment as Environment)
    assertProxies(environment as Environment)
    assertOrigins(environment as Environment)
    assertUrls(environment as Environment)
    return environment as Environment
  }
  const [error] = check.errors as [ErrorObject]
  const name = error.instancePath.slice(1) as keyof Environment
  const { description } = Environment.properties[name]
  throw new ConfigurationError(
    `${name} ${describeViolation(error)}. See .env.example: ${description}`
  )
}

function assertPorts({ PORT, METRICS_PORT }: Environment): void {
  if (METRICS_PORT === PORT && PORT !== 0)
    throw new ConfigurationError(`METRICS_PORT is the same as PORT, ${PORT}. Set another.`)
}

/** Addresses and ranges, which no pattern tells from other text. */
function assertProxies(env: Environment): void {
  for (const part of env.TRUST_PROXY?.split(',') ?? [])
    if (!isProxy(part.trim()))
      throw new ConfigurationError(
        `TRUST_PROXY has no address or range in "${part}". See .env.example.`
      )
}

function isProxy(text: string): boolean {
  if (['loopback', 'linklocal', 'uniquelocal'].includes(text)) return true
  const [address = '', bits = '1', ...more] = text.split('/')
  const mostBits = { 4: 32, 6: 128 }[isIP(address)] ?? 0
  const isRange = /^\d{1,3}$/.test(bits) && Number(bits) >= 1 && Number(bits) <= mostBits
  return isRange && more.length === 0
}

/** The origins that pages may call from; `*` alone is any. */
export function originsOf({ CORS_ORIGIN }: Pick<Environment, 'CORS_ORIGIN'>): string[] {
  const parts = CORS_ORIGIN?.split(',').map((each) => each.trim()) ?? []
  return parts.filter((each) => each !== '')
}

/** Whoever names an origin means no other, and * would allow all. */
function assertOrigins(env: Environment): void {
  const origins = originsOf(env)
  if (origins.length > 1 && origins.includes('*'))
    throw new ConfigurationError('CORS_ORIGIN is either * or a list without it.')
  for (const origin of origins)
    if (origin !== '*' && !isOrigin(origin))
      throw new ConfigurationError(
        `CORS_ORIGIN has no origin in "${origin}": write it as browsers send it, such as https://app.example.com. See .env.example.`
      )
}

/** They are compared as text: a path, a capital or the usual port would match nothing. */
function isOrigin(text: string): boolean {
  if (!URL.canParse(text)) return false
  const { protocol, host } = new URL(text)
  return text === `${protocol}//${host}` && host !== '' && !host.includes('*')
}

/** They are not repeated: there are passwords in them. */
function assertUrls(env: Environment): void {
  for (const name of ['DATABASE_URL', 'SUPABASE_DB_URL', 'SUPABASE_URL', 'REDIS_URL'] as const)
    if (env[name] && !isUrl(env[name]))
      throw new ConfigurationError(
        `${name} is not a valid URL: look at its port, and percent-encode what is special in a password.`
      )
}

function isUrl(text: string): boolean {
  // Postgres may have a user and no host, for a socket of Unix.
  const isSocket = /^postgres(ql)?:.*@\//.test(text)
  try {
    const { username, password } = new URL(isSocket ? text.replace('@/', '@localhost/') : text)
    decodeURIComponent(username + password)
    return true
  } catch {
    return false
  }
}

const checkProviders = compiledWhenNeeded(createAjv(), LlmProviders)

/**
 * The LLM providers that are configured: `openai`, where it has a key, and those of LLM_PROVIDERS.
 * @throws ConfigurationError that does not repeat a value: there are keys among them.
 */
export function readProviders(env: Environment): ProviderSettings[] {
  const openai = {
    name: 'openai',
    url: env.OPENAI_BASE_URL,
    key: env.OPENAI_API_KEY ?? '',
    model: env.OPENAI_DEFAULT_MODEL
  }
  const more = env.LLM_PROVIDERS ? parseProviders(env.LLM_PROVIDERS) : []
  const providers = openai.key === '' ? more : [openai, ...more]
  const names = new Set(providers.map(({ name }) => name))
  if (names.size < providers.length)
    throw new ConfigurationError('LLM_PROVIDERS has a name twice, or the name openai.')
  for (const { name, url, key } of providers) {
    if (!URL.canParse(url))
      throw new ConfigurationError(
        `The URL of LLM provider ${name} is not valid. Set ${variableOf(name, 'OPENAI_BASE_URL')} to its address.`
      )
    // It goes into a header, which leaves out the line break that a file ends with.
    if (!/^[ -~]*[\r\n]*$/.test(key))
      throw new ConfigurationError(
        `The key of LLM provider ${name} contains characters other than printable ASCII. Set ${variableOf(name, 'OPENAI_API_KEY')} to the key alone.`
      )
  }
  return providers
}

/** Where a provider is configured. */
function variableOf(provider: string, openAis: keyof Environment): string {
  return provider === 'openai' ? openAis : 'LLM_PROVIDERS'
}

function parseProviders(text: string): LlmProviders {
  let providers: unknown
  try {
    providers = JSON.parse(text)
  } catch {
    throw new ConfigurationError('LLM_PROVIDERS is not valid JSON. See .env.example.')
  }
  if (checkProviders(providers)) return providers as LlmProviders
  const [error] = checkProviders.errors as [ErrorObject]
  const where = pointerOf(error) || 'as a whole'
  throw new ConfigurationError(
    `LLM_PROVIDERS ${where}: ${describeViolation(error)}. See .env.example.`
  )
}

export interface StorageChoice {
  readonly entry: StorageEntry
  /** Why this one, for the start-up message. */
  readonly reason: string
}

/**
 * The environment of a command that works on what a server keeps.
 * @param inMemory says why there is nothing to do where it keeps nothing.
 */
export function readKeptEnvironment(inMemory: string): Environment {
  loadEnvironmentFiles()
  const env = readEnvironment(process.env)
  if (!chooseStorage(env).entry.isKept) throw new ConfigurationError(inMemory)
  return env
}

/** @throws ConfigurationError where variables that belong together are half set. */
export function chooseStorage(env: Environment): StorageChoice {
  if (env.STORAGE) {
    const entry = storages.find(({ kind }) => kind === env.STORAGE)
    if (!entry) throw new ConfigurationError(`STORAGE=${env.STORAGE} is not available.`)
    const missing = missingOf(entry, env)
    if (missing.length && !entry.file)
      throw new ConfigurationError(`STORAGE=${env.STORAGE} needs ${missing.join(' and ')}.`)
    return { entry, reason: `STORAGE=${env.STORAGE}` }
  }
  for (const entry of storages) {
    const missing = missingOf(entry, env)
    if (missing.length === 0)
      return {
        entry,
        reason: entry.needs.length ? `${entry.needs.join(' and ')} set` : 'no storage is configured'
      }
    if (missing.length < entry.needs.length) {
      const set = entry.needs.filter((name) => !missing.includes(name))
      throw new ConfigurationError(
        `${set.join(' and ')} is set without ${missing.join(' and ')}: set both for ${entry.kind}, or neither.`
      )
    }
  }
  throw new ConfigurationError('No storage is available.')
}

function missingOf({ needs }: StorageEntry, env: Environment): string[] {
  return needs.filter((name) => env[name] === undefined)
}
