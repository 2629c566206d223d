import type { FastifyInstance } from 'fastify'
import type { Stored, Values } from '../../adapters/storage/port.js'
import { secrets } from '../../schemas/secrets.js'
import type { Keyring } from '../encryption.js'
import { resourceRoutes } from './resources.js'

/** The value goes in and never comes out: answers show what is about it. */
export function secretRoutes(app: FastifyInstance, keyring: Keyring): void {
  resourceRoutes(app, secrets, {
    columns({ value, expires_at }, name, { account }): Values<typeof secrets> {
      return {
        ...keyring.seal(value as string, [account.tenant, name]),
        expires_at: (expires_at as string | undefined) ?? null
      }
    },
    view: (row) => ({ ...row, expired: isExpired(row) })
  })
}

function isExpired({ expires_at }: Stored<typeof secrets>): boolean {
  return expires_at !== null && Date.parse(expires_at) <= Date.now()
}
