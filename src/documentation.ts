import swagger from '@fastify/swagger'
import swaggerUi from '@fastify/swagger-ui'
import type { FastifyInstance } from 'fastify'
import { Credentials, RefreshRequest, Registration, SignedIn, Tokens } from '../schemas/auth.js'
import { ExecutionUpdate } from '../schemas/executions.js'
import { FlowFromTemplate } from '../schemas/flows.js'
import { FieldProblem, Problem } from '../schemas/problem.js'
import { resources } from '../schemas/registry.js'
import { Health, Readiness } from '../schemas/status.js'
import { UserSelfUpdate } from '../schemas/users.js'
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
  FlowFromTemplate,
  ExecutionUpdate,
  Health,
  Readiness
]

const tags = [
  { name: 'auth', description: 'Signing in and out.' },
  ...resources
    .filter(({ access }) => access)
    .map(({ name, description }) => ({ name, description })),
  { name: 'status', description: 'For monitors and load balancers.' }
]

/** The OpenAPI document of the routes that are added after this, and Swagger UI to try them. */
export async function documentation(app: FastifyInstance, version: string): Promise<void> {
  for (const schema of components) app.addSchema(schema)
  for (const resource of resources) addResourceSchemas(app, resource)

  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'Workflow API',
        version,
        description:
          'Users, templates, flows, executions, connections, secrets and an audit log, for one or many tenants.',
        license: { name: 'MIT', identifier: 'MIT' }
      },
      servers: [{ url: '/', description: 'This server' }],
      tags,
      components: {
        securitySchemes: {
          bearerAuth: {
            type: 'http',
            scheme: 'bearer',
            bearerFormat: 'JWT',
            description: 'The token that POST /api/auth/login answers.'
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

  await app.register(swaggerUi, {
    routePrefix: '/api/docs',
    staticCSP: true,
    uiConfig: { persistAuthorization: true, displayRequestDuration: true }
  })

  app.get('/api/openapi.json', { config: { role: 'anyone' }, schema: { hide: true } }, async () =>
    app.swagger()
  )
}

/** Only what a route uses: a component that nothing refers to would puzzle readers. */
function addResourceSchemas(app: FastifyInstance, resource: (typeof resources)[number]): void {
  const operations = resource.access?.operations ?? []
  if (operations.length) app.addSchema(resource.view)
  if (operations.includes('create') || resource.name === 'executions')
    app.addSchema(resource.create)
  if (operations.includes('replace')) app.addSchema(resource.replace)
  if (operations.includes('update')) app.addSchema(resource.update)
}
