import { Type } from '@sinclair/typebox'
import { Timestamp } from './fields.js'
import { defineResource } from './resource.js'

export const leases = defineResource({
  name: 'leases',
  singular: 'lease',
  description: 'Jobs that one instance of the server does at a time.',
  tenancy: 'system',
  fields: {
    /** The name of the job. */
    id: Type.String(),
    /** Until then nobody may take it: somebody has it, or it is not due. */
    expires_at: Timestamp()
  },
  key: 'id',
  keys: 'given',
  required: ['expires_at'],
  optional: [],
  filters: [],
  audited: false
})
