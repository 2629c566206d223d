import { hash } from 'node:crypto'
import { LRUCache } from 'lru-cache'
import type { Completion, Prompt } from '../../adapters/llm/port.js'

export interface CacheLimits {
  readonly entries: number
  /** What keys and answers may take up together, in bytes. */
  readonly bytes: number
  readonly lifeMs: number
}

export type CompletionCache = Pick<LRUCache<string, Completion>, 'get' | 'set'>

/** What an entry takes up beside its texts: objects, numbers and its place in the lists. */
const ENTRY_BYTES = 500

/** Answers by the key of their request. The least recently used make room. */
export function createCompletionCache(
  { entries, bytes, lifeMs }: CacheLimits,
  clock: { now(): number } = performance
): CompletionCache {
  return new LRUCache<string, Completion>({
    max: entries,
    maxSize: bytes,
    ttl: lifeMs,
    perf: clock,
    ttlResolution: 0,
    // Strings take up to two bytes a unit.
    sizeCalculation: ({ content, model }, key) =>
      ENTRY_BYTES + 2 * (content.length + model.length + key.length)
  })
}

/** Names a request by everything that its answer depends on, and by whom it is for. */
export function cacheKey(tenant: string, provider: string, prompt: Prompt): string {
  const { model, system, temperature, maxTokens } = prompt
  const request = [tenant, provider, model, system, prompt.prompt, temperature, maxTokens]
  return hash('sha256', JSON.stringify(request), 'base64')
}
