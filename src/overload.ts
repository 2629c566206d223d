import { readFileSync } from 'node:fs'
import { getHeapStatistics } from 'node:v8'
import underPressure from '@fastify/under-pressure'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Environment } from '../schemas/environment.js'
import { ApiError, retryAfter } from './problems.js'

type Limits = Pick<
  Environment,
  'OVERLOAD_EVENT_LOOP_DELAY_MS' | 'OVERLOAD_HEAP_BYTES' | 'OVERLOAD_RSS_BYTES'
>

/** Garbage is collected long before: what is still there then is in use. */
const HEAP_SHARE = 0.9
/** A line for each refusal would add to what it is about. */
const LOG_EVERY_MS = 10_000

/** For routes that answer however much there is to do: those that monitors ask. */
export const evenUnderPressure = { pressureHandler: () => {} }

/** Refuses requests while the process has more to do, or more in memory, than it can stand. */
export async function refuseOverload(app: FastifyInstance, limits: Limits): Promise<void> {
  const tell = rarely((refused, measure: string, value?: number) =>
    app.log.warn({ measure, value, refused }, 'overloaded: refusing requests')
  )

  function refuse(_request: FastifyRequest, _reply: FastifyReply, measure: string, value?: number) {
    tell(measure, value)
    return overloaded()
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

/**
 * Shares of the files that the process may open. What is left over is for all else: without any,
 * nothing could be stored or measured, and the process would end.
 */
const CONNECTIONS_SHARE = 0.6
const ANSWERS_SHARE = 0.15

/** Linux tells. Elsewhere servers run to be looked at. */
function readMostOpenFiles(): number {
  try {
    const limits = readFileSync('/proc/self/limits', 'utf8')
    return Number(/^Max open files +(\d+)/m.exec(limits)?.[1] ?? Number.POSITIVE_INFINITY)
  } catch {
    return Number.POSITIVE_INFINITY
  }
}

const mostOpenFiles = readMostOpenFiles()

/** Connections beyond their share are closed. */
export function limitConnections({ server, log }: FastifyInstance): void {
  server.maxConnections = Math.floor(mostOpenFiles * CONNECTIONS_SHARE)
  server.on(
    'drop',
    rarely((refused) => log.warn({ refused }, 'too many connections: refusing new ones'))
  )
}

/** For answers from files, each of which is open until the reader has taken it. */
export function limitOpenAnswers(app: FastifyInstance): void {
  const most = Math.floor(mostOpenFiles * ANSWERS_SHARE)
  const tell = rarely((refused) => app.log.warn({ refused }, 'too many open files: refusing more'))
  let open = 0
  app.addHook('onRequest', (_request, { raw }, done) => {
    if (open >= most) {
      tell()
      throw overloaded()
    }
    open++
    // Also where the reader leaves, of which onResponse is not told.
    raw.once('close', () => open--)
    done()
  })
}

function overloaded(): ApiError {
  // As often as the pressure is measured.
  return new ApiError('overloaded', undefined, { headers: retryAfter(1) })
}

/** Says of the first of many events, and later how many there were since. */
function rarely<T extends unknown[]>(say: (times: number, ...event: T) => void) {
  let times = 0
  let saysNext = 0
  return (...event: T) => {
    times++
    if (performance.now() < saysNext) return
    saysNext = performance.now() + LOG_EVERY_MS
    say(times, ...event)
    times = 0
  }
}
