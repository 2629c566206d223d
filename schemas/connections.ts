import { Type } from '@sinclair/typebox'
import { Line, TextId } from './fields.js'
import { patterns } from './patterns.js'
import { defineResource } from './resource.js'

export const connections = defineResource({
  name: 'connections',
  singular: 'connection',
  description: 'Accounts at other services that flows act on.',
  fields: {
    id: TextId('conn_slack'),
    provider: Line('slack'),
    category: Line('messaging'),
    account: Line('team@example.com'),
    status: Type.String({
      minLength: 1,
      maxLength: 64,
      pattern: patterns.notBlank,
      default: 'connected',
      examples: ['connected']
    })
  },
  key: 'id',
  keys: { prefix: 'conn' },
  required: ['provider', 'category', 'account'],
  optional: ['status'],
  filters: ['provider', 'category', 'status'],
  audited: true,
  access: {
    read: 'viewer',
    write: 'editor',
    operations: ['list', 'get', 'create', 'replace', 'update', 'delete']
  }
})
