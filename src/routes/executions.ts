import { Type } from '@sinclair/typebox'
import type { FastifyInstance } from 'fastify'
import type { Stored, Values } from '../../adapters/storage/port.js'
import {
  type ExecutionStatus,
  ExecutionUpdate,
  executions,
  transitions
} from '../../schemas/executions.js'
import { flows } from '../../schemas/flows.js'
import { ApiError } from '../problems.js'
import { etag, ifMatchOf, route } from '../route.js'
import { newKey } from '../store.js'
import { createdAnswer, createRow } from './created-rows.js'
import { listAnswers, listQuery, sendPage, toQuery } from './lists.js'
import { idParams, resourceRoutes } from './resources.js'

const shown = Type.Ref(executions.view.$id)
const tag = executions.path

export function executionRoutes(app: FastifyInstance): void {
  resourceRoutes(app, executions)

  route(app, {
    method: 'GET',
    url: '/flows/:id/executions',
    role: 'viewer',
    operation: {
      id: 'listExecutionsOfFlow',
      tag,
      summary: 'List the executions of a flow, newest first'
    },
    params: idParams(flows),
    query: listQuery(executions, ['status']),
    answers: listAnswers(shown),
    async handler(request, reply, caller) {
      const flow = await caller.store.need(flows, request.params.id)
      const query = toQuery<typeof executions>({ ...request.query, flow_id: flow.id })
      const page = await caller.store.list(executions, query)
      return sendPage(reply, request.url, page, (row) => row)
    }
  })

  route(app, {
    method: 'POST',
    url: '/flows/:id/executions',
    role: 'editor',
    operation: { id: 'createExecution', tag, summary: 'Queue an execution of a flow' },
    params: idParams(flows),
    body: executions.create,
    answers: createdAnswer(shown, 'Queued.'),
    creates: true,
    handler: (request, reply, caller) =>
      createRow(app, request, reply, caller, {
        resource: executions,
        async make() {
          const flow = await caller.store.need(flows, request.params.id)
          const { input } = request.body
          return { id: newKey(executions), flow_id: flow.id, status: 'queued' as const, input }
        }
      })
  })

  route(app, {
    method: 'PATCH',
    url: '/executions/:id',
    role: 'editor',
    operation: {
      id: 'updateExecution',
      tag,
      summary: 'Move an execution on',
      description:
        'From queued to running, and from running to success, failed or cancelled. Of many who try to take one, one succeeds. A worker that sets `output` to its own name as it takes one sees by it, after a lost answer, whether it did.'
    },
    params: idParams(executions),
    body: ExecutionUpdate,
    answers: { 200: { description: 'Changed.', schema: shown, headers: ['ETag'] } },
    problems: [409, 412],
    async handler(request, reply, caller) {
      const { id } = request.params
      const execution = await caller.store.update(
        executions,
        id,
        (row) => moveOn(row, request.body.status, request.body),
        { ifMatch: ifMatchOf(request) }
      )
      reply.header('etag', etag(execution))
      return execution
    }
  })
}

type Outcome = { readonly error?: string | null; readonly output?: unknown }

function moveOn(
  { id, status }: Stored<typeof executions>,
  next: ExecutionStatus,
  { error, output }: Outcome
): Values<typeof executions> {
  if (!transitions[status].includes(next)) {
    const allowed = transitions[status].join(' or ')
    const can = allowed ? `can become ${allowed}, not ${next}` : `can no longer become ${next}`
    throw new ApiError('invalid_transition', `Execution ${id} is ${status} and ${can}.`)
  }
  const now = new Date().toISOString()
  return {
    status: next,
    ...(next === 'running' ? { started_at: now } : { finished_at: now }),
    ...(error === undefined ? {} : { error }),
    ...(output === undefined ? {} : { output })
  }
}
