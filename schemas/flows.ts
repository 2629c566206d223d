import { Type } from '@sinclair/typebox'
import { Choice, Json, Line, Nullable, TextId } from './fields.js'
import { defineResource, object } from './resource.js'

export const flows = defineResource({
  name: 'flows',
  singular: 'flow',
  description: 'Workflows: drafts until they are deployed.',
  fields: {
    id: TextId('flow_onboarding'),
    name: Line('Onboarding'),
    status: Choice(['draft', 'active'], { default: 'draft' }),
    definition: Nullable(Json({ steps: [{ send: 'welcome' }] })),
    template_id: Nullable(TextId('tpl_welcome'))
  },
  key: 'id',
  keys: { prefix: 'flow' },
  required: ['name'],
  optional: ['status', 'definition', 'template_id'],
  references: [{ field: 'template_id', to: 'templates', onDelete: 'restrict' }],
  filters: ['status', 'template_id'],
  audited: true,
  access: {
    read: 'viewer',
    write: 'editor',
    operations: ['list', 'get', 'create', 'replace', 'update', 'delete']
  }
})

/** The body of POST /templates/:id/flows: what is absent comes from the template. */
export const FlowFromTemplate = object(
  'FlowFromTemplate',
  { id: Type.Optional(TextId('flow_onboarding')), name: Type.Optional(Line('Onboarding')) },
  { examples: [{ name: 'Onboarding' }] }
)
