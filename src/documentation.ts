import swagger from '@fastify/swagger'
import swaggerUi from '@fastify/swagger-ui'
import type { FastifyInstance } from 'fastify'
import { ApiKeyRotation, apiKeys, ShownApiKey } from '../schemas/api-keys.js'
import { Credentials, RefreshRequest, Registration, SignedIn, Tokens } from '../schemas/auth.js'
import { ExecutionUpdate, executions } from '../schemas/executions.js'
import { FlowFromTemplate } from '../schemas/flows.js'
import {
  LlmCompletion,
  LlmDelta,
  LlmDone,
  LlmRequest,
  LlmStreamProblem,
  LlmStreamRequest,
  LlmTokens,
  LlmUsageTotal
} from '../schemas/llm.js'
import { FieldProblem, Problem } from '../schemas/problem.js'
import { resources } from '../schemas/registry.js'
import { Health, Readiness } from '../schemas/status.js'
import { UserSelfUpdate } from '../schemas/users.js'
import { limitOpenAnswers } from './overload.js'
import { setSecurityHeaders } from './security-headers.js'
import { shareComponents } from './shared-components.js'

const components = [
  Problem,
  FieldProblem,
  Credentials,
  Registration,
  RefreshRequest,
  Tokens,
  SignedIn,
  UserSelfUpdate,
  apiKeys.create,
  ShownApiKey,
  ApiKeyRotation,
  FlowFromTemplate,
  executions.create,
  ExecutionUpdate,
  LlmRequest,
  LlmStreamRequest,
  LlmTokens,
  LlmCompletion,
  LlmDelta,
  LlmDone,
  LlmStreamProblem,
  LlmUsageTotal,
  Health,
  Readiness
]

const tags = [
  { name: 'auth', description: 'Signing in and out.' },
  ...resources
    .filter(({ access }) => access)
    .map(({ path, description }) => ({ name: path, description })),
  { name: 'llm', description: 'Asking language models.' },
  { name: 'status', description: 'For monitors and load balancers.' }
]

const title = 'Workflow API'
const description = `\
Templates, flows and their executions, with the users, connections and secrets they need, for many
tenants that see nothing of each other.

**Sign in** with \`POST /api/auth/login\`, then send the \`token\` of the answer with each request: the
Authorize button does that for this page. Programs send an API key instead.

**Lists** are arrays, newest first. Where there is more, the \`Link\` header has the address of the
next page.

**Creating** is safe to repeat with an \`Idempotency-Key\`: it happens once, and each answer is the
first one. Where that held a credential, which is so for registering and for API keys, a repeat is
answered with 409 \`already_created\`.

**Changes** are safe against others' with \`If-Match\` and the \`ETag\` of what was read.

**Errors** are \`application/problem+json\`: decide by their \`code\`, which is stable.`

/** Strict, but without `upgrade-insecure-requests`, with which the page cannot call plain HTTP. */
const contentPolicyOfDocs = {
  'default-src': ["'none'"],
  'script-src': ["'self'"],
  'style-src': ["'self'"],
  // Swagger UI draws its icons from data.
  'img-src': ["'self'", 'data:'],
  'connect-src': ["'self'"],
  'base-uri': ["'none'"],
  'form-action': ["'none'"],
  'frame-ancestors': ["'none'"]
}

/** The OpenAPI document of the routes that are added after this, and Swagger UI to try them. */
export async function documentation(app: FastifyInstance, version: string): Promise<void> {
  for (const schema of components) app.addSchema(schema)
  for (const resource of resources) addResourceSchemas(app, resource)

  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title,
        version,
        description,
        license: { name: 'MIT', identifier: 'MIT' }
      },
      servers: [{ url: '/', description: 'This server' }],
      tags,
      components: {
        securitySchemes: {
          bearerAuth: {
            type: 'http',
            scheme: 'bearer',
            bearerFormat: 'JWT or API key',
            description: 'The token that POST /api/auth/login answers, or an API key.'
          }
        }
      }
    },
    transformObject(given) {
      if (!('openapiObject' in given)) throw new TypeError('The document is to be OpenAPI 3')
      shareComponents(given.openapiObject as Parameters<typeof shareComponents>[0])
      return given.openapiObject
    },
    convertConstToEnum: false,
    refResolver: { buildLocalReference: (json, _base, _fragment, i) => `${json.$id ?? `def-${i}`}` }
  })

  await app.register(async (pages) => {
    // The plugin sets the policy of its pages itself.
    setSecurityHeaders(pages, { contentSecurityPolicy: false })
    limitOpenAnswers(pages)
    await pages.register(swaggerUi, {
      routePrefix: '/api/docs',
      theme: { title },
      staticCSP: contentPolicyOfDocs,
      // The base layout has no bar to load other documents with, and no inline style in it.
      uiConfig: { layout: 'BaseLayout', persistAuthorization: true, displayRequestDuration: true }
    })
  })

  let text: string | undefined
  app.get(
    '/api/openapi.json',
    { config: { role: 'anyone' }, schema: { hide: true } },
    async (_request, reply) => {
      text ??= JSON.stringify(app.swagger())
      return reply.type('application/json; charset=utf-8').send(text)
    }
  )
}

/** Only what a route uses: a component that nothing refers to would puzzle readers. */
function addResourceSchemas(app: FastifyInstance, resource: (typeof resources)[number]): void {
  const operations = resource.access?.operations ?? []
  if (operations.length) app.addSchema(resource.view)
  if (operations.includes('create')) app.addSchema(resource.create)
  if (operations.includes('replace')) app.addSchema(resource.replace)
  if (operations.includes('update')) app.addSchema(resource.update)
}
