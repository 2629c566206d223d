import { Type } from '@sinclair/typebox'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { LlmProvider } from '../../adapters/llm/port.js'
import type { Storage } from '../../adapters/storage/port.js'
import type { Environment } from '../../schemas/environment.js'
import {
  LlmCompletion,
  LlmEvents,
  LlmRequest,
  type LlmStreamProblem,
  LlmStreamQuery,
  LlmStreamRequest,
  LlmUsageQuery,
  LlmUsageTotal,
  MOST_USAGE_DAYS
} from '../../schemas/llm.js'
import { DAY_MS } from '../durations.js'
import { toApiError } from '../errors.js'
import type { CallOrigin } from '../llm/calls.js'
import { openEventStream } from '../llm/event-stream.js'
import { openCalls } from '../llm/open-calls.js'
import { createUnderWay } from '../llm/under-way.js'
import { dayOf, reportUsage } from '../llm/usage.js'
import { type ApiError, refuseValue, tooMany } from '../problems.js'
import { type Caller, route } from '../route.js'
import { linkNext } from './lists.js'

export interface LlmDependencies {
  readonly env: Environment
  readonly providers: readonly LlmProvider[]
  readonly storage: Storage
}

const tag = 'llm'
/** Storages hold the years 1 to 9999, and a report ends where the day after its last begins. */
const FIRST_DAY = '0001-01-01'
const LAST_DAY = '9999-12-30'

export function llmRoutes(app: FastifyInstance, dependencies: LlmDependencies): void {
  const { env } = dependencies
  const warn = (error: unknown, message: string) => app.log.warn({ err: error }, message)
  const { calls, usage, close } = openCalls({ ...dependencies, warn })
  const limited = limitCalls(app, env.LLM_RATE_LIMIT_PER_MINUTE)
  const underWay = createUnderWay()

  app.addHook('preClose', async () => {
    // The server waits for open answers before it closes, and a stream may never end by itself.
    await underWay.stop(env.SHUTDOWN_TIMEOUT_MS)
  })
  app.addHook('onClose', close)

  route(app, {
    method: 'POST',
    url: '/llm/complete',
    role: 'editor',
    limited,
    operation: {
      id: 'complete',
      tag,
      summary: 'Ask a model and get its whole answer',
      description:
        'Going away ends the request at the provider. Where the server has a cache, `X-Cache` says ' +
        'whether the answer comes from it.'
    },
    body: LlmRequest,
    answers: {
      200: {
        description: 'The answer.',
        schema: Type.Ref(LlmCompletion.$id),
        headers: ['X-Cache']
      }
    },
    problems: [422, 502, 504],
    async handler(request, reply, caller) {
      const task = underWay.begin(reply.raw)
      try {
        const { completion, hit } = await calls.complete(
          request.body,
          originOf(request, caller),
          task
        )
        reply.header('x-cache', hit ? 'hit' : 'miss')
        return completion
      } catch (error) {
        if (!task.gone()) throw error
        // Nobody is left to answer.
        reply.hijack()
      } finally {
        task.end()
      }
    }
  })

  async function stream(
    request: Pick<FastifyRequest, 'id' | 'log' | 'routeOptions'>,
    ask: LlmRequest,
    reply: FastifyReply,
    caller: Caller
  ): Promise<void> {
    const task = underWay.begin(reply.raw)
    try {
      const pieces = calls.stream(ask, originOf(request, caller), task)
      const events = openEventStream(reply, {
        pingMs: env.LLM_PING_MS,
        stallMs: env.LLM_SILENCE_MS
      })
      try {
        for await (const piece of pieces) {
          const behind = events.send(piece)
          if (behind) await behind
        }
        events.end()
      } catch (error) {
        const problem = toApiError(error)
        if (problem.statusCode >= 500 && !task.gone())
          request.log.error({ err: error }, problem.detail)
        events.end(toErrorEvent(problem, request.id))
      }
    } finally {
      task.end()
    }
  }

  const streamed = {
    role: 'editor',
    limited,
    answers: {
      200: { description: 'The events.', schema: LlmEvents, mediaType: 'text/event-stream' }
    }
  } as const

  route(app, {
    method: 'POST',
    url: '/llm/stream',
    ...streamed,
    operation: {
      id: 'stream',
      tag,
      summary: 'Ask a model and get its answer piece by piece',
      description:
        'Server-Sent Events. The headers come at once, so what fails later is an event named ' +
        '`error`. Going away ends the request at the provider.'
    },
    body: LlmStreamRequest,
    problems: [422],
    handler: (request, reply, caller) => stream(request, request.body, reply, caller)
  })

  route(app, {
    method: 'GET',
    url: '/llm/stream',
    ...streamed,
    operation: {
      id: 'streamByQuery',
      tag,
      summary: 'The same, for clients that can only GET',
      description:
        'Prefer POST: an address, and with it the prompt, ends up in the logs of whatever stands ' +
        'between. This server does not log it. Address and headers together may have 16 KiB, so a ' +
        'long prompt goes by POST.'
    },
    query: LlmStreamQuery,
    problems: [413, 422],
    handler: (request, reply, caller) => stream(request, request.query, reply, caller)
  })

  route(app, {
    method: 'GET',
    url: '/llm/usage',
    role: 'admin',
    operation: {
      id: 'getLlmUsage',
      tag,
      summary: 'Sum calls, errors and tokens by day, model and user',
      description:
        'Of the tenant, newest day first. What other instances have counted in the last ten ' +
        'seconds may be missing. Beyond 10,000 sums `Link` has the address of the days before; a ' +
        'day that alone has more is refused: ask for one user or model, or for the days before it.'
    },
    query: LlmUsageQuery,
    answers: {
      200: {
        description: 'The sums.',
        schema: Type.Array(Type.Ref(LlmUsageTotal.$id)),
        headers: ['Link']
      }
    },
    async handler({ query, url }, reply, { store }) {
      const { until = dayOf(new Date()) } = query
      assertDay('until', until)
      const { since = monthBefore(until) } = query
      assertDay('since', since)
      assertPeriod(since, until)
      await usage.flush()
      const { totals, next } = await reportUsage(store, { ...query, since, until })
      if (next) linkNext(reply, url, { since, until: next })
      return totals
    }
  })
}

/** The problem, with what would be in a header of it were the headers not long gone. */
function toErrorEvent(problem: ApiError, requestId: string): LlmStreamProblem {
  const retryAfter = problem.extra.headers?.['retry-after']
  const wait = retryAfter === undefined ? {} : { retry_after: Number(retryAfter) }
  return { ...problem.toProblem(requestId), ...wait }
}

function originOf(
  request: Pick<FastifyRequest, 'id' | 'routeOptions'>,
  { principal }: Caller
): CallOrigin {
  return {
    tenant: principal.tenant,
    user: principal.id,
    requestId: request.id,
    route: request.routeOptions.url as string
  }
}

/** Counts calls of all LLM routes together: by the address and by who is signed in. */
function limitCalls(app: FastifyInstance, max: number) {
  const limit = { max, timeWindow: 60_000 }
  const limiters = [
    app.createRateLimit({ ...limit, ...inSpace('llm-address') }),
    app.createRateLimit({
      ...limit,
      ...inSpace('llm-user'),
      keyGenerator: ({ caller }) => caller?.principal.id as string
    })
  ]

  return async (request: FastifyRequest, reply: FastifyReply): Promise<void> => {
    let least = Number.POSITIVE_INFINITY
    for (const count of limiters) {
      const counted = await count(request)
      if (counted.isAllowed) continue
      const { remaining, ttlInSeconds, isExceeded } = counted
      // Of two limits, the one is told that refuses, or else the nearer.
      if (isExceeded || remaining < least)
        reply.headers({
          'ratelimit-limit': max,
          'ratelimit-remaining': remaining,
          'ratelimit-reset': ttlInSeconds
        })
      least = Math.min(least, remaining)
      if (isExceeded) throw tooMany('LLM calls', 1000 * ttlInSeconds)
    }
  }
}

/** An option for the store of the counters, which the plugin hands on as it is. */
function inSpace(space: string): object {
  return { space }
}

function monthBefore(day: string): string {
  const since = dayOf(new Date(Date.parse(day) - 30 * DAY_MS))
  return since < FIRST_DAY ? FIRST_DAY : since
}

/** @throws ApiError `validation_failed` */
function assertPeriod(since: string, until: string): void {
  const days = (Date.parse(until) - Date.parse(since)) / DAY_MS
  if (days < 0) refuse('until', 'is before since')
  if (days > MOST_USAGE_DAYS) refuse('since', `is more than ${MOST_USAGE_DAYS} days before until`)
}

/** @throws ApiError `validation_failed` */
function assertDay(name: string, text: string): void {
  const time = Date.parse(text)
  // JavaScript takes the 30th of February for the 2nd of March.
  const isDay = !Number.isNaN(time) && dayOf(new Date(time)) === text
  if (!isDay || text < FIRST_DAY || text > LAST_DAY)
    refuse(name, `is not a day from ${FIRST_DAY} to ${LAST_DAY}`)
}

function refuse(name: string, detail: string): never {
  refuseValue('query', `/${name}`, detail)
}
