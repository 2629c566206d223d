import { randomBytes } from 'node:crypto'
import { hash, verify } from '@node-rs/argon2'
import type {
  FastifyInstance,
  FastifyServerOptions,
  InjectOptions,
  LightMyRequestResponse
} from 'fastify'
import type { Redis } from 'ioredis'
import { openLocalIdentity, type PasswordHasher } from '../../adapters/identity/local.js'
import type { Identity } from '../../adapters/identity/port.js'
import type { LlmProvider } from '../../adapters/llm/port.js'
import type { Storage } from '../../adapters/storage/port.js'
import type { Role } from '../../schemas/resource.js'
import { buildApp } from '../../src/app.js'
import { readEnvironment } from '../../src/configuration.js'
import { createKeyring, type Keyring } from '../../src/encryption.js'
import { openLlm } from '../../src/open.js'
import { documentOf } from './openapi.js'
import { memory, type Teardown, type TestStorage } from './storages.js'
import './untracked.js'

/** Real argon2id at its least cost: what is tested is not how long it takes. */
export const cheapHasher: PasswordHasher = {
  hash: (password) => hash(password, { memoryCost: 8, timeCost: 1, parallelism: 1 }),
  verify
}

export interface TestApiOptions {
  /** Opens a storage of its own (unless one is given) and its sign-in; memory by default. */
  readonly on?: TestStorage
  readonly storage?: Storage
  readonly identity?: Identity
  readonly hasher?: PasswordHasher
  readonly env?: Readonly<Record<string, string>>
  readonly logger?: FastifyServerOptions['logger']
  readonly redis?: Redis
  readonly stopping?: AbortSignal
  /** One with a key that nobody knows by default. */
  readonly keyring?: Keyring
  /** Those of the environment by default. */
  readonly providers?: readonly LlmProvider[]
}

/** Sends requests as somebody; `null` sends them as nobody. */
export type Send = (
  method: NonNullable<InjectOptions['method']>,
  url: string,
  body?: unknown,
  headers?: Readonly<Record<string, string>>
) => Promise<LightMyRequestResponse>

export interface Person {
  readonly id: string
  readonly email: string
  readonly password: string
  readonly token: string
  readonly refreshToken: string
  readonly send: Send
}

export interface TestApi {
  readonly app: FastifyInstance
  readonly storage: Storage
  readonly keyring: Keyring
  /** For names and addresses that no other test gives, in a project that several use at once. */
  readonly tag: string
  /** Sends without signing in. */
  readonly send: Send
  as(token: string): Send
  /** Registers a tenant and returns its first admin. */
  register(tenantName?: string): Promise<Person>
  /** Has an admin create a user of a role, and signs it in. */
  person(admin: Person, role: Role): Promise<Person>
}

/** The API, closed with the test. */
export async function testApi(t: Teardown, options: TestApiOptions = {}): Promise<TestApi> {
  const on = options.on ?? memory
  const storage = options.storage ?? (await on.open(t))
  const secret = randomBytes(32).toString('base64')
  const hasher = options.hasher ?? cheapHasher
  const identity =
    options.identity ??
    (await options.on?.openIdentity?.(t, storage)) ??
    (await openLocalIdentity({ storage, secret, hasher }))
  const keyring = options.keyring ?? createKeyring([{ id: 'default', key: randomBytes(32) }])
  const env = readEnvironment({
    NODE_ENV: 'test',
    AUTH_RATE_LIMIT_PER_MINUTE: '1000000',
    LLM_LOG_PATH: '/dev/null',
    // The tests are in the same process, and hold it up themselves.
    OVERLOAD_EVENT_LOOP_DELAY_MS: '0',
    ...options.env
  })
  const providers = options.providers ?? (await openLlm(env))
  const app = await buildApp({
    env,
    storage,
    identity,
    keyring,
    providers,
    logger: options.logger ?? false,
    ...(options.redis ? { redis: options.redis } : {}),
    ...(options.stopping ? { stopping: options.stopping } : {})
  })
  t.teardown(async () => {
    await app.close()
    for (const provider of providers) provider.close()
  })
  await app.ready()

  function as(token: string | null): Send {
    const authorization = token === null ? {} : { authorization: `Bearer ${token}` }
    return async (method, url, body, headers = {}) => {
      const answer = await app.inject({
        method,
        url: `/api${url}`,
        headers: { ...authorization, ...headers },
        ...(body === undefined ? {} : { payload: body as object })
      })
      // Every answer that a test gets is held against the document, so that neither can drift.
      const document = await documentOf(app)
      document.checkResponse(method, `/api${url}`, answer)
      return answer
    }
  }
  const send = as(null)
  const tag = randomBytes(6).toString('hex')
  let count = 0

  function personOf(answer: LightMyRequestResponse, password: string): Person {
    const { user, token, refresh_token } = answer.json()
    if (!token) throw new Error(`Sign-in failed: ${answer.body}`)
    return {
      id: user.id,
      email: user.email,
      password,
      token,
      refreshToken: refresh_token,
      send: as(token)
    }
  }

  return {
    app,
    storage,
    keyring,
    tag,
    send,
    as,

    async register(tenantName = `Tenant ${++count} ${tag}`) {
      const password = `password of ${tenantName}`
      const body = {
        tenant_name: tenantName,
        name: 'Ada',
        email: `admin${++count}.${tag}@example.com`,
        password
      }
      return personOf(await send('POST', '/auth/register', body), password)
    },

    async person(admin, role) {
      const password = `password of ${role}`
      const body = { email: `${role}${++count}.${tag}@example.com`, name: role, role, password }
      await admin.send('POST', '/users', body)
      return personOf(await send('POST', '/auth/login', { email: body.email, password }), password)
    }
  }
}
