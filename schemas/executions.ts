import { Type } from '@sinclair/typebox'
import { Choice, Json, Nullable, TextId, Timestamp, Uuid } from './fields.js'
import { defineResource, object } from './resource.js'

export const executionStatuses = ['queued', 'running', 'success', 'failed', 'cancelled'] as const
export type ExecutionStatus = (typeof executionStatuses)[number]

export const executions = defineResource({
  name: 'executions',
  singular: 'execution',
  description: 'Runs of a flow. Deleting the flow deletes them.',
  fields: {
    id: Uuid('019b76da-a800-7000-8000-000000000011'),
    flow_id: TextId('flow_onboarding'),
    status: Choice(executionStatuses, { default: 'queued', examples: ['success'] }),
    started_at: Nullable(Timestamp()),
    finished_at: Nullable(Timestamp('2026-01-31T09:30:04.000Z')),
    error: Nullable(Type.String()),
    input: Nullable(Json({ customer: 42 })),
    output: Nullable(Json({ sent: true }))
  },
  key: 'id',
  keys: 'uuid',
  required: [],
  optional: ['input'],
  references: [{ field: 'flow_id', to: 'flows', onDelete: 'cascade' }],
  filters: ['flow_id', 'status'],
  combinedFilters: [['flow_id', 'status']],
  period: true,
  audited: true,
  access: { read: 'viewer', write: 'editor', operations: ['list', 'get'] }
})

/** Where an execution may go from each status. */
export const transitions: Readonly<Record<ExecutionStatus, readonly ExecutionStatus[]>> = {
  queued: ['running'],
  running: ['success', 'failed', 'cancelled'],
  success: [],
  failed: [],
  cancelled: []
}

/** The body of PATCH /executions/:id: the next status, and what came of the run. */
export const ExecutionUpdate = object(
  'ExecutionUpdate',
  {
    // Nothing becomes queued again; it is a status like the others, and refused like a wrong turn.
    status: Choice(executionStatuses, { examples: ['running'] }),
    error: Type.Optional(
      Nullable(Type.String({ examples: ['The mail server refused the message.'] }))
    ),
    output: Type.Optional(Nullable(Json({ sent: true })))
  },
  {
    examples: [
      { status: 'running' },
      { status: 'success', output: { sent: true } },
      { status: 'failed', error: 'The mail server refused the message.' }
    ]
  }
)
