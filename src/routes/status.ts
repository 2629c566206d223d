import { Type } from '@sinclair/typebox'
import type { FastifyInstance } from 'fastify'
import type { Storage } from '../../adapters/storage/port.js'
import { Health, Readiness } from '../../schemas/status.js'
import { sendProblem } from '../errors.js'
import { ApiError, retryAfter } from '../problems.js'
import { route } from '../route.js'

export interface StatusDependencies {
  readonly storage: Storage
  readonly version: string
  /** Aborts when the server is about to stop. */
  readonly stopping?: AbortSignal | undefined
}

const tag = 'status'

export function statusRoutes(app: FastifyInstance, dependencies: StatusDependencies): void {
  const { storage, version, stopping } = dependencies
  route(app, {
    method: 'GET',
    url: '/health',
    role: 'anyone',
    operation: { id: 'getHealth', tag, summary: 'Whether the process is up' },
    evenUnderPressure: true,
    answers: { 200: { description: 'It is.', schema: Type.Ref(Health.$id) } },
    handler: () => ({ status: 'ok', storage: storage.kind, version })
  })

  route(app, {
    method: 'GET',
    url: '/ready',
    role: 'anyone',
    evenUnderPressure: true,
    operation: { id: 'getReadiness', tag, summary: 'Whether requests can be served' },
    answers: {
      200: { description: 'The storage answers.', schema: Type.Ref(Readiness.$id) }
    },
    problems: [503],
    async handler(request, reply) {
      // Neither is an error to be logged each time that a monitor asks.
      if (stopping?.aborted)
        return sendProblem(new ApiError('not_ready', 'The server is stopping.'), request, reply)
      if (app.isUnderPressure()) {
        const headers = retryAfter(1)
        const overloaded = new ApiError('not_ready', 'The server is overloaded.', { headers })
        return sendProblem(overloaded, request, reply)
      }
      try {
        const { migration } = await storage.ping()
        return { status: 'ready', storage: storage.kind, migration }
      } catch (cause) {
        throw new ApiError('not_ready', undefined, { cause, headers: retryAfter(1) })
      }
    }
  })
}
