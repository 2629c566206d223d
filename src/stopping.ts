import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'
import type { Environment } from '../schemas/environment.js'

/**
 * For what is ended by then, to say so: more than the second that Node keeps a connection after its
 * answer.
 */
const LAST_WORDS_MS = 2000
/** For the storage to write what it has accepted. */
const FLUSH_MS = 5000
/** About what a load balancer takes that looks every second or two. */
const PRODUCTION_DELAY_MS = 5000
/** Beyond all of these, so that it is never Fastify that gives up first. */
const HOOK_MARGIN_MS = 1000

type Times = Pick<Environment, 'NODE_ENV' | 'SHUTDOWN_DELAY_MS' | 'SHUTDOWN_TIMEOUT_MS'>

/** Longest time that stopping takes, in milliseconds: what is left then is given up. */
export function mostStoppingMs(env: Times): number {
  return delayOf(env) + env.SHUTDOWN_TIMEOUT_MS + LAST_WORDS_MS + FLUSH_MS
}

/** How long a hook of Fastify's may take, those that wait for what is under way included. */
export function mostHookMs(env: Times): number {
  return mostStoppingMs(env) + HOOK_MARGIN_MS
}

/**
 * Serves until those who ask for readiness know that it is over, then accepts nothing more, waits
 * for what is under way and cuts what takes longer.
 */
export async function stopServing(
  app: FastifyInstance,
  env: Times,
  { atOnce }: { readonly atOnce: boolean }
): Promise<void> {
  if (!atOnce) await sleep(delayOf(env))
  const cutting = setTimeout(() => {
    app.log.warn('cutting requests that did not end within SHUTDOWN_TIMEOUT_MS')
    app.server.closeAllConnections()
  }, env.SHUTDOWN_TIMEOUT_MS + LAST_WORDS_MS)
  try {
    await app.close()
  } finally {
    clearTimeout(cutting)
  }
}

function delayOf({ NODE_ENV, SHUTDOWN_DELAY_MS }: Times): number {
  return SHUTDOWN_DELAY_MS ?? (NODE_ENV === 'production' ? PRODUCTION_DELAY_MS : 0)
}
