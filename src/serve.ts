import type { AddressInfo } from 'node:net'
import closeWithGrace from 'close-with-grace'
import type { FastifyInstance } from 'fastify'
import type { Redis } from 'ioredis'
import type { LlmProvider } from '../adapters/llm/port.js'
import type { StorageEntry } from '../adapters/storage/registry.js'
import type { Environment } from '../schemas/environment.js'
import { buildApp } from './app.js'
import { runCommand } from './command.js'
import { ConfigurationError, loadEnvironmentFiles, readEnvironment } from './configuration.js'
import { type Seeded, seedDemoData } from './demo-data.js'
import { demoLogin } from './demo-login.js'
import { endNoMore } from './end-at-once.js'
import { listenAt } from './listen-at.js'
import { logStream } from './log-stream.js'
import type { Metrics } from './metrics.js'
import { keepNextTickFast } from './next-tick.js'
import { type Opened, openBackend, openLlm } from './open.js'
import { connectRedis } from './redis.js'
import { startRetention } from './retention.js'
import { mostStoppingMs, stopServing } from './stopping.js'
import { version } from './version.js'

/** `--dev` works on SQLite with demo data, unless STORAGE says otherwise. */
const development = process.argv.includes('--dev')

/** What a fault in native code raises, again and again where JavaScript listens: the process would spin for ever. */
const faultSignals = ['SIGABRT', 'SIGBUS', 'SIGFPE', 'SIGILL', 'SIGSEGV', 'SIGTRAP'] as const

async function main(): Promise<void> {
  keepNextTickFast()
  loadEnvironmentFiles()
  if (development) process.env.STORAGE ||= 'sqlite'
  const env = readEnvironment(process.env)
  const providers = await openLlm(env)
  const backend = await openBackend(env)
  let redis: Redis | undefined
  let metrics: Metrics | undefined
  async function close(): Promise<void> {
    metrics?.close()
    redis?.disconnect()
    for (const provider of providers) provider.close()
    await backend.storage.close()
  }
  try {
    if (env.REDIS_URL) redis = await connectRedis(env.REDIS_URL)
    if (env.METRICS_PORT !== undefined) metrics = await openMetrics(env, env.METRICS_PORT, backend)
    await serve({ env, providers, backend, redis, metrics, close })
  } catch (error) {
    // An open connection would keep the process from ending. What closing says would hide the error.
    await Promise.allSettled([close()])
    throw error
  }
}

/** Loads what nobody needs who has no port for it. */
async function openMetrics(env: Environment, port: number, { choice }: Opened): Promise<Metrics> {
  const { serveMetrics } = await import('./metrics.js')
  return serveMetrics(env, port, choice.entry.kind)
}

interface Parts {
  readonly env: Environment
  readonly providers: readonly LlmProvider[]
  readonly backend: Opened
  readonly redis: Redis | undefined
  readonly metrics: Metrics | undefined
  /** Closes all of these. */
  close(): Promise<void>
}

async function serve({ env, providers, backend, redis, metrics, close }: Parts): Promise<void> {
  const { choice, storage, identity, keys } = backend
  const seeded = isForDemo(env, choice.entry) ? await seed(backend) : undefined

  const stopping = new AbortController()
  const app = await buildApp({
    env,
    storage,
    identity,
    keyring: keys.keyring,
    providers,
    logger: { level: env.LOG_LEVEL, stream: logStream() },
    stopping: stopping.signal,
    ...(redis ? { redis } : {}),
    ...(metrics ? { observe: metrics.observe } : {})
  })
  await listen(app, env)
  announce(env, backend, app.server.address() as AddressInfo, metrics?.address, seeded)
  const retention = startRetention({ storage, env, log: app.log })

  closeWithGrace({ delay: mostStoppingMs(env), skip: [...faultSignals] }, async ({ err }) => {
    if (err) app.log.error({ err }, 'stopping after an error')
    stopping.abort()
    const pruned = retention.stop()
    try {
      await stopServing(app, env, { atOnce: err !== undefined })
    } finally {
      await pruned
      await close()
    }
  })
  endNoMore()
}

/** @throws ConfigurationError where the address cannot be had. */
async function listen(app: FastifyInstance, { PORT, HOST }: Environment): Promise<void> {
  try {
    await listenAt('PORT', PORT, HOST, (port, host) => app.listen({ port, host }))
  } catch (error) {
    await app.close()
    throw error
  }
}

/** Nobody asked for it, so what is in its way keeps no server from starting. */
async function seed({ storage, identity, keys }: Opened): Promise<Seeded | undefined> {
  try {
    return await seedDemoData(storage, identity, keys.keyring)
  } catch (error) {
    if (!(error instanceof ConfigurationError)) throw error
    process.stderr.write(`${error.message}\n`)
    return undefined
  }
}

/** Whether it may have an admin whose password everybody knows: nobody else works with these rows. */
function isForDemo(env: Environment, { isKept, file }: StorageEntry): boolean {
  return env.NODE_ENV !== 'production' && (!isKept || (development && file !== undefined))
}

function announce(
  env: Environment,
  opened: Opened,
  { address, port }: AddressInfo,
  metrics: AddressInfo | undefined,
  seeded: Seeded | undefined
): void {
  const { entry, reason } = opened.choice
  const everywhere = ['0.0.0.0', '::'].includes(env.HOST)
  const host = everywhere ? 'localhost' : env.HOST.includes(':') ? `[${env.HOST}]` : env.HOST
  const origin = (port: number) => `http://${host}:${port}`
  const api = `${origin(port)}/api`
  const lines = [
    `Workflow API ${version}`,
    `  Docs      ${api}/docs`,
    ...(metrics ? [`  Metrics   ${origin(metrics.port)}/metrics`] : []),
    `  Storage   ${entry.kind} (${reason})`
  ]
  if (!entry.isKept) lines.push('            Nothing is kept when this process ends.')
  if (seeded?.signsIn) {
    lines.push(`  Sign in   ${seeded.admin.email} / ${demoLogin.password}`)
    if (!isLoopback(address))
      lines.push('            Everybody knows this password, and HOST lets others in.')
  } else if (seeded) lines.push(`  Sign in   ${seeded.admin.email}, with the password you chose`)
  else if (env.REGISTRATION === 'open') lines.push(`  Sign up   POST ${api}/auth/register`)
  if (opened.keys.origin) lines.push(`  Keys      ${opened.keys.origin}`)
  process.stdout.write(`${lines.join('\n')}\n`)
}

function isLoopback(address: string): boolean {
  return address === '::1' || /^(::ffff:)?127\./.test(address)
}

// It serves on a full disk, too.
runCommand(main, () => true)
