import { Type } from '@sinclair/typebox'
import { defineResource } from './resource.js'

export const encryptionKeys = defineResource({
  name: 'encryption_keys',
  singular: 'encryption_key',
  description: 'Known plaintexts, one under each key in use: they tell a wrong key at start-up.',
  tenancy: 'system',
  fields: { id: Type.String(), canary: Type.String() },
  key: 'id',
  keys: 'given',
  required: ['canary'],
  optional: [],
  filters: [],
  audited: false
})
