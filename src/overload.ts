import { getHeapStatistics } from 'node:v8'
import underPressure from '@fastify/under-pressure'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Environment } from '../schemas/environment.js'
import { ApiError } from './problems.js'

type Limits = Pick<
  Environment,
  'OVERLOAD_EVENT_LOOP_DELAY_MS' | 'OVERLOAD_HEAP_BYTES' | 'OVERLOAD_RSS_BYTES'
>

/** Garbage is collected long before: what is still there then is in use. */
const HEAP_SHARE = 0.9
/** As often as the pressure is measured. */
const RETRY_AFTER_SECONDS = '1'
/** A line for each refusal would add to what it is about. */
const LOG_EVERY_MS = 10_000

/** For routes that answer however much there is to do: those that monitors ask. */
export const evenUnderPressure = { pressureHandler: () => {} }

/** Refuses requests while the process has more to do, or more in memory, than it can stand. */
export async function refuseOverload(app: FastifyInstance, limits: Limits): Promise<void> {
  let refused = 0
  let saysNext = 0

  function refuse(_request: FastifyRequest, _reply: FastifyReply, measure: string, value?: number) {
    refused++
    if (performance.now() >= saysNext) {
      saysNext = performance.now() + LOG_EVERY_MS
      app.log.warn({ measure, value, refused }, 'overloaded: refusing requests')
      refused = 0
    }
    return new ApiError('overloaded', undefined, {
      headers: { 'retry-after': RETRY_AFTER_SECONDS }
    })
  }

  await app.register(underPressure, {
    maxEventLoopDelay: limits.OVERLOAD_EVENT_LOOP_DELAY_MS,
    maxHeapUsedBytes:
      limits.OVERLOAD_HEAP_BYTES ?? Math.floor(getHeapStatistics().heap_size_limit * HEAP_SHARE),
    maxRssBytes: limits.OVERLOAD_RSS_BYTES,
    // What it returns is sent, though the type has it that nothing is.
    pressureHandler: refuse as (...given: Parameters<typeof refuse>) => void
  })
}
