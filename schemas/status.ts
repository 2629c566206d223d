import { Type } from '@sinclair/typebox'
import { Nullable } from './fields.js'
import { object } from './resource.js'

const storage = Type.String({ description: 'The kind of storage in use.', examples: ['sqlite'] })
const version = Type.String({ description: 'The release of the API.', examples: ['0.1.0'] })
const status = Type.String({ examples: ['ok'] })

export const Health = object('Health', { status, storage, version })

export const Readiness = object('Readiness', {
  status,
  storage,
  migration: Nullable(
    Type.String({
      description: 'The newest migration of the database; null where there is no schema.',
      examples: ['20261123000000_init']
    })
  )
})
