import { Json, Line, Nullable, Text, TextId } from './fields.js'
import { defineResource } from './resource.js'

export const templates = defineResource({
  name: 'templates',
  singular: 'template',
  description: 'Blueprints that flows are made from.',
  fields: {
    id: TextId('tpl_welcome'),
    name: Line('Welcome e-mail'),
    description: Text('Greets a new customer.'),
    definition: Nullable(Json({ steps: [{ send: 'welcome' }] }))
  },
  key: 'id',
  keys: { prefix: 'tpl' },
  required: ['name'],
  optional: ['description', 'definition'],
  filters: [],
  audited: true,
  access: {
    read: 'viewer',
    write: 'editor',
    operations: ['list', 'get', 'create', 'replace', 'update', 'delete']
  }
})
