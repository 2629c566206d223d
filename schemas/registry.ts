import { apiKeys } from './api-keys.js'
import { audit } from './audit.js'
import { connections } from './connections.js'
import { encryptionKeys } from './encryption-keys.js'
import { executions } from './executions.js'
import { flows } from './flows.js'
import { idempotencyKeys } from './idempotency-keys.js'
import { leases } from './leases.js'
import { llmUsage } from './llm-usage.js'
import type { AnyResource } from './resource.js'
import { secrets } from './secrets.js'
import { sessions } from './sessions.js'
import { templates } from './templates.js'
import { tenants } from './tenants.js'
import { users } from './users.js'

/** Every resource, a line each, a reference's target before its holder. */
export const resources: readonly AnyResource[] = [
  tenants,
  users,
  sessions,
  apiKeys,
  templates,
  flows,
  executions,
  connections,
  secrets,
  audit,
  idempotencyKeys,
  llmUsage,
  encryptionKeys,
  leases
]
