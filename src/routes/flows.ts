import { Type } from '@sinclair/typebox'
import type { FastifyInstance } from 'fastify'
import { FlowFromTemplate, flows } from '../../schemas/flows.js'
import { templates } from '../../schemas/templates.js'
import { etag, ifMatchOf, route } from '../route.js'
import { newKey } from '../store.js'
import { createdAnswer, createRow } from './created-rows.js'
import { idParams, resourceRoutes } from './resources.js'

const shown = Type.Ref(flows.view.$id)
const tag = flows.path

export function flowRoutes(app: FastifyInstance): void {
  resourceRoutes(app, flows)

  route(app, {
    method: 'POST',
    url: '/flows/:id/deploy',
    role: 'editor',
    operation: { id: 'deployFlow', tag, summary: 'Make a flow active' },
    params: idParams(flows),
    answers: { 200: { description: 'The active flow.', schema: shown, headers: ['ETag'] } },
    problems: [412],
    async handler(request, reply, caller) {
      const { id } = request.params
      const options = { ifMatch: ifMatchOf(request), verb: 'deploy' }
      const flow = await caller.store.update(flows, id, { status: 'active' }, options)
      reply.header('etag', etag(flow))
      return flow
    }
  })

  route(app, {
    method: 'POST',
    url: '/templates/:id/flows',
    role: 'editor',
    operation: {
      id: 'createFlowFromTemplate',
      tag,
      summary: 'Create a draft from a template'
    },
    params: idParams(templates),
    body: FlowFromTemplate,
    answers: createdAnswer(shown),
    creates: true,
    handler: (request, reply, caller) =>
      createRow(app, request, reply, caller, {
        resource: flows,
        async make() {
          const template = await caller.store.need(templates, request.params.id)
          const { id = newKey(flows), name = template.name } = request.body
          const { definition } = template
          return { id, name, status: 'draft' as const, definition, template_id: template.id }
        }
      })
  })
}
