import type { FastifyInstance } from 'fastify'
import type { Values } from '../../adapters/storage/port.js'
import { secrets } from '../../schemas/secrets.js'
import type { Keyring } from '../encryption.js'
import { expiresSoon, isExpired, secretContext } from '../secret-values.js'
import { resourceRoutes } from './resources.js'

/** The value goes in and never comes out: answers show what is about it. */
export function secretRoutes(app: FastifyInstance, keyring: Keyring): void {
  resourceRoutes(app, secrets, {
    columns({ value, expires_at }, name, { principal }): Values<typeof secrets> {
      const context = secretContext({ tenant_id: principal.tenant, name })
      return {
        // A change may leave either as it is.
        ...(value === undefined ? {} : keyring.seal(value as string, context)),
        ...(expires_at === undefined ? {} : { expires_at: expires_at as string | null })
      }
    },
    view: (row) => ({ ...row, expired: isExpired(row), expires_soon: expiresSoon(row) })
  })
}
