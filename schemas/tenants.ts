import { Line, Uuid } from './fields.js'
import { defineResource } from './resource.js'

export const tenants = defineResource({
  name: 'tenants',
  singular: 'tenant',
  description: 'The organisations that share an installation and see nothing of each other.',
  tenancy: 'root',
  fields: { id: Uuid(), name: Line('Acme') },
  key: 'id',
  keys: 'uuid',
  required: ['name'],
  optional: [],
  unique: [{ fields: ['name'], within: 'everywhere' }],
  filters: [],
  audited: true
})
