import type { FastifyInstance } from 'fastify'
import { resources } from '../../schemas/registry.js'
import type { AnyResource } from '../../schemas/resource.js'
import type { ApiKeys } from '../api-keys.js'
import type { Keyring } from '../encryption.js'
import { apiKeyRoutes } from './api-keys.js'
import { executionRoutes } from './executions.js'
import { flowRoutes } from './flows.js'
import { resourceRoutes } from './resources.js'
import { secretRoutes } from './secrets.js'
import { type UserDependencies, userRoutes } from './users.js'

export interface ResourceDependencies extends UserDependencies {
  readonly apiKeys: ApiKeys
  readonly keyring: Keyring
}

/** The resources that are more than their declaration says, by name. */
const ownRoutes: Readonly<
  Record<string, (app: FastifyInstance, dependencies: ResourceDependencies) => void>
> = {
  users: userRoutes,
  api_keys: (app, { apiKeys }) => apiKeyRoutes(app, apiKeys),
  flows: flowRoutes,
  executions: executionRoutes,
  secrets: (app, { keyring }) => secretRoutes(app, keyring)
}

/** Those that are no more than that. */
export const plainResources = resources.filter(isPlain)

function isPlain({ name, access }: AnyResource): boolean {
  return access !== undefined && !ownRoutes[name]
}

/** The routes of every resource that has any, in the order of the registry. */
export function everyResourceRoutes(
  app: FastifyInstance,
  dependencies: ResourceDependencies
): void {
  for (const resource of resources) {
    ownRoutes[resource.name]?.(app, dependencies)
    if (isPlain(resource)) resourceRoutes(app, resource)
  }
}
