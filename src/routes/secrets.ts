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
      return {
        ...keyring.seal(value as string, secretContext({ tenant_id: principal.tenant, name })),
        expires_at: (expires_at as string | undefined) ?? null
      }
    },
    view: (row) => ({ ...row, expired: isExpired(row), expires_soon: expiresSoon(row) })
  })
}
