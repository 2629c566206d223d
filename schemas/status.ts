import { Type } from '@sinclair/typebox'
import { Nullable } from './fields.js'
import { object } from './resource.js'

const storage = Type.String({ description: 'The kind of storage in use.', examples: ['sqlite'] })
const version = Type.String({ description: 'The release of the API.', examples: ['0.1.0'] })
export const Health = object('Health', {
  status: Type.Literal('ok', { examples: ['ok'] }),
  storage,
  version
})

export const Readiness = object('Readiness', {
  status: Type.Literal('ready', { examples: ['ready'] }),
  storage,
  migration: Nullable(
    Type.String({
      description: 'The newest migration of the database; null where there is no schema.',
      examples: ['20261123000000_init']
    })
  )
})
