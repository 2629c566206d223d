import type { LlmProvider } from '../../adapters/llm/port.js'
import type { Storage } from '../../adapters/storage/port.js'
import type { Environment } from '../../schemas/environment.js'
import { HOUR_MS } from '../durations.js'
import { createCompletionCache } from './cache.js'
import { openCallLog } from './call-log.js'
import { type Calls, createCalls } from './calls.js'
import { createModeration } from './moderation.js'
import { createUsage, type Usage } from './usage.js'

export interface OpenCallsOptions {
  readonly env: Environment
  readonly providers: readonly LlmProvider[]
  readonly storage: Storage
  /** Told of what fails beside the calls. */
  readonly warn: (error: unknown, message: string) => void
}

export interface OpenedCalls {
  readonly calls: Calls
  readonly usage: Usage
  /** Writes what is still to be logged and counted. */
  close(): Promise<void>
}

/** Calls of models as the environment has them: with its limits, its cache, its log and the totals. */
export function openCalls({ env, providers, storage, warn }: OpenCallsOptions): OpenedCalls {
  const log = openCallLog({
    path: env.LLM_LOG_PATH,
    maxBytes: env.LLM_LOG_MAX_BYTES,
    maxAgeMs: env.LLM_LOG_MAX_AGE_HOURS * HOUR_MS,
    maxFiles: env.LLM_LOG_MAX_FILES,
    warn
  })
  const usage = createUsage({ storage, warn })
  const moderation = createModeration({
    bannedTerms: env.LLM_BANNED_TERMS?.split(',') ?? [],
    answers: env.LLM_BANNED_TERMS_OUTPUT,
    maxChars: env.LLM_MAX_PROMPT_CHARS
  })
  const cache = env.LLM_CACHE_ENABLED
    ? createCompletionCache({
        entries: env.LLM_CACHE_MAX_ENTRIES,
        bytes: env.LLM_CACHE_MAX_BYTES,
        lifeMs: env.LLM_CACHE_TTL_SECONDS * 1000
      })
    : undefined
  const systemPrompt = env.OPENAI_SYSTEM_PROMPT
  return {
    calls: createCalls({ providers, systemPrompt, moderation, cache, log, usage }),
    usage,
    async close() {
      await Promise.all([usage.close(), log.close()])
    }
  }
}
