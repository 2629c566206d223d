import { Type } from '@sinclair/typebox'
import { Choice, Json, Nullable, TextId, Timestamp, Uuid } from './fields.js'
import { defineResource, type Row } from './resource.js'

export const executionStatuses = ['queued', 'running', 'success', 'failed', 'cancelled'] as const
export type ExecutionStatus = (typeof executionStatuses)[number]

export const executions = defineResource({
  name: 'executions',
  singular: 'execution',
  description: 'Runs of a flow. Deleting the flow deletes them.',
  fields: {
    id: Uuid(),
    flow_id: TextId('flow_onboarding'),
    status: Choice(executionStatuses, { default: 'queued' }),
    started_at: Nullable(Timestamp()),
    finished_at: Nullable(Timestamp()),
    error: Nullable(Type.String({ examples: ['The mail server refused the message.'] })),
    input: Nullable(Json({ customer: 42 })),
    output: Nullable(Json({ sent: true }))
  },
  key: 'id',
  keys: 'uuid',
  required: [],
  optional: ['input'],
  references: [{ field: 'flow_id', to: 'flows', onDelete: 'cascade' }],
  filters: ['flow_id', 'status'],
  period: true,
  audited: true,
  access: { read: 'viewer', write: 'editor', operations: ['list', 'get'] }
})
export type Execution = Row<typeof executions>
