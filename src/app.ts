import { randomUUID } from 'node:crypto'
import { maxHeaderSize } from 'node:http'
import cors from '@fastify/cors'
import rateLimit, { normalizeIP, type RateLimitOptions } from '@fastify/rate-limit'
import fastify, {
  type FastifyInstance,
  type FastifyRequest,
  type FastifyServerOptions,
  LogController
} from 'fastify'
import type { Redis } from 'ioredis'
import type { Identity } from '../adapters/identity/port.js'
import type { LlmProvider } from '../adapters/llm/port.js'
import type { Storage } from '../adapters/storage/port.js'
import type { Environment } from '../schemas/environment.js'
import { answerHeaders } from './answer-headers.js'
import { createApiKeys } from './api-keys.js'
import { authenticate } from './authenticate.js'
import { assertClean, assertDecodable, isDecodable } from './clean-values.js'
import { clientAddress } from './client-address.js'
import { originsOf } from './configuration.js'
import { documentation } from './documentation.js'
import { HOUR_MS } from './durations.js'
import type { Keyring } from './encryption.js'
import { answerUnreadable, sendError, sendProblem } from './errors.js'
import { createIdempotency, type Idempotency } from './idempotency.js'
import { readJsonBodies } from './json-body.js'
import { createLoginDefence } from './login-defence.js'
import { limitConnections, refuseOverload } from './overload.js'
import { createPrincipals } from './principals.js'
import { ApiError } from './problems.js'
import { countingStore } from './rate-limit.js'
import { type SharedRedis, shareRedis } from './redis.js'
import { type EndedRequest, logRequests } from './request-log.js'
import { requireRole } from './route.js'
import { authRoutes } from './routes/auth.js'
import { everyResourceRoutes } from './routes/every-resource.js'
import { llmRoutes } from './routes/llm.js'
import { statusRoutes } from './routes/status.js'
import { setSecurityHeaders } from './security-headers.js'
import { buildSerializer } from './serializer.js'
import { arrivalTimes, mostSilenceMs, stopInOrder, takeTurns } from './sockets.js'
import { mostHookMs } from './stopping.js'
import { createUsers } from './users.js'
import { buildValidator } from './validator.js'
import { version } from './version.js'
import { writeInTurn } from './write-in-turn.js'

declare module 'fastify' {
  interface FastifyInstance {
    /** For routes that cost a password hash, or that guess at one. */
    signInLimit: RateLimitOptions
    /** For routes that create. */
    idempotency: Idempotency
  }
}

/** How long browsers may go by a preflight before they ask again. */
const PREFLIGHT_SECONDS = 600

export interface AppOptions {
  readonly env: Environment
  readonly storage: Storage
  readonly identity: Identity
  readonly keyring: Keyring
  /** Shared by the instances that count rate limits together. */
  readonly redis?: Redis
  /** None by default: the LLM routes then say what to set. */
  readonly providers?: readonly LlmProvider[]
  /** Aborts when the server is about to stop: from then on it says that it is not ready. */
  readonly stopping?: AbortSignal
  /** Standard output at the environment's level by default. */
  readonly logger?: FastifyServerOptions['logger']
  /** Told of each request when it has ended. */
  readonly observe?: (request: EndedRequest) => void
}

/** The API, ready to listen or to be injected requests. It owns none of what it is given. */
export async function buildApp(options: AppOptions): Promise<FastifyInstance> {
  const { env, storage, identity, keyring, stopping } = options
  const app = createServer(options)
  logRequests(app, options.observe)
  await setHeaders(app, env)
  await refuseOverload(app, env)
  const shared = options.redis && shareRedis(options.redis, app.log)
  await limitRates(app, env, shared)

  const principals = createPrincipals(storage)
  const apiKeys = createApiKeys(storage, principals)
  app.addHook('onClose', () => apiKeys.close())
  app.addHook('onRoute', requireRole)
  receiveRequests(app, stopping)
  app.addHook('onRequest', authenticate({ storage, identity, principals, apiKeys }))
  checkValues(app)
  writeInTurn(app)

  const lifeMs = env.IDEMPOTENCY_TTL_HOURS * HOUR_MS
  app.decorate('idempotency', createIdempotency({ storage, keyring, lifeMs }))
  await documentation(app, version)
  await app.register(
    async (api) => {
      const users = createUsers(storage, identity, principals)
      const registration = env.REGISTRATION
      const defence = createLoginDefence(shared)
      statusRoutes(api, { storage, version, stopping })
      authRoutes(api, { storage, identity, principals, users, registration, defence })
      everyResourceRoutes(api, { identity, users, defence, apiKeys, keyring })
      llmRoutes(api, { env, storage, providers: options.providers ?? [] })
    },
    { prefix: '/api' }
  )
  await stopInOrder(app)
  return app
}

/** Fastify, with connections, bodies and errors as the API has them, and nothing to answer yet. */
function createServer({ env, logger }: AppOptions): FastifyInstance {
  const app = fastify({
    logger: logger ?? { level: env.LOG_LEVEL },
    // One line for each request, written by `logRequests`.
    logController: new LogController({ disableRequestLogging: true }),
    genReqId: () => randomUUID(),
    bodyLimit: env.BODY_LIMIT,
    requestTimeout: env.REQUEST_TIMEOUT_MS,
    connectionTimeout: mostSilenceMs(env),
    keepAliveTimeout: env.KEEP_ALIVE_TIMEOUT_MS,
    pluginTimeout: mostHookMs(env),
    trustProxy: env.TRUST_PROXY ?? false,
    // The router would refuse these before any hook, and so without headers that pages of other origins
    // need: what cannot be decoded goes where nothing is, and how long a key may be the schemas know.
    rewriteUrl: ({ url = '/' }) => (isDecodable(url) ? url : '/'),
    routerOptions: { maxParamLength: maxHeaderSize },
    clientErrorHandler: answerUnreadable,
    http: {
      // Node's own refusal would be no problem document: `receiveRequests` makes it.
      requireHostHeader: false,
      ...arrivalTimes(env)
    },
    // What comes in before the server has stopped is served: the refusal would be no problem document.
    return503OnClosing: false,
    schemaController: { compilersFactory: { buildSerializer, buildValidator } }
  })

  // An expectation that nobody here knows may be ignored (RFC 9110, 10.1.1).
  app.server.on('checkExpectation', (request, response) =>
    app.server.emit('request', request, response)
  )
  limitConnections(app)
  takeTurns(app)
  readJsonBodies(app)
  app.setErrorHandler(sendError)
  app.setNotFoundHandler((request, reply) => sendProblem(noRoute(request), request, reply))
  app.decorateRequest('caller', null)
  return app
}

/** Those of every answer. */
async function setHeaders(app: FastifyInstance, env: Environment): Promise<void> {
  setSecurityHeaders(app, {
    contentSecurityPolicy: {
      useDefaults: false,
      directives: { defaultSrc: ["'none'"], frameAncestors: ["'none'"] }
    },
    // Only pages heed these, and plug-ins of old: /api/docs has them. Six more for each answer would
    // take a tenth of the time of a GET.
    crossOriginOpenerPolicy: false,
    originAgentCluster: false,
    xDnsPrefetchControl: false,
    xDownloadOptions: false,
    xPermittedCrossDomainPolicies: false,
    xXssProtection: false
  })
  const origins = originsOf(env)
  if (origins.length)
    await app.register(cors, {
      origin: origins,
      methods: ['GET', 'POST', 'PUT', 'PATCH', 'DELETE'],
      // An OPTIONS that is no preflight is answered as one: the refusal would be no problem document.
      strictPreflight: false,
      maxAge: PREFLIGHT_SECONDS,
      exposedHeaders: Object.keys(answerHeaders)
    })
}

/** Routes say whether they are limited. */
async function limitRates(
  app: FastifyInstance,
  env: Environment,
  shared: SharedRedis | undefined
): Promise<void> {
  await app.register(rateLimit, {
    global: false,
    enableDraftSpec: true,
    store: countingStore(shared),
    // Of an IPv6 address, the part that one customer has.
    keyGenerator: (request) => normalizeIP(clientAddress(request)),
    errorResponseBuilder: (_request, { after }) =>
      new ApiError('rate_limited', `Too many tries from this IP address. Try again in ${after}.`)
  })
  app.decorate('signInLimit', { max: env.AUTH_RATE_LIMIT_PER_MINUTE, timeWindow: '1 minute' })
}

/** This and the other hooks that wait for nothing call back: a promise for each is what a request would notice. */
function receiveRequests(app: FastifyInstance, stopping: AbortSignal | undefined): void {
  app.addHook('onRequest', (request, reply, done) => {
    reply.header('x-request-id', request.id)
    // Whoever asks again does so on a new connection, and so elsewhere as soon as that is known.
    if (stopping?.aborted) reply.header('connection', 'close')
    const { httpVersion, headers } = request.raw
    if (headers.host === undefined && httpVersion === '1.1')
      throw new ApiError('bad_request', 'The request has no Host header.')
    // Before a body is read that nobody asked for.
    if (request.is404) {
      assertDecodable(request.originalUrl)
      throw noRoute(request)
    }
    done()
  })
  if (stopping)
    app.addHook('onSend', (_request, reply, payload, done) => {
      // Of what was under way before, too: the next request on its connection might be cut.
      if (stopping.aborted) reply.header('connection', 'close')
      done(null, payload)
    })
}

function checkValues(app: FastifyInstance): void {
  app.addHook('preValidation', ({ body, query, params }, _reply, done) => {
    assertClean(params, 'path')
    assertClean(query, 'query')
    assertClean(body, 'body')
    done()
  })
}

function noRoute({ method }: FastifyRequest): ApiError {
  return new ApiError('route_not_found', `${method} has nothing at this path. See /api/docs.`)
}
