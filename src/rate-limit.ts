import type { FastifyRateLimitStore, FastifyRateLimitStoreCtor } from '@fastify/rate-limit'
import type { Result } from 'ioredis'
import { LRUCache } from 'lru-cache'
import type { SharedRedis } from './redis.js'

declare module 'ioredis' {
  interface RedisCommander<Context> {
    countInWindow(key: string, windowMs: number): Result<[number, number], Context>
  }
}

/** Calls so far in a window, and how long it still lasts, in milliseconds. */
interface Count {
  readonly current: number
  readonly ttl: number
}

/** Addresses and users that are counted at a time; the least recently seen are forgotten. */
const MOST_COUNTERS = 20_000

const countInWindow = `
  local current = redis.call('INCR', KEYS[1])
  if current == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
  return { current, redis.call('PTTL', KEYS[1]) }
`

/**
 * Counts for rate limits. With Redis, instances count together; while it is away each goes on with
 * what it has counted itself, so that a limit stays a limit.
 */
export function countingStore(shared?: SharedRedis): FastifyRateLimitStoreCtor {
  shared?.define('countInWindow', { numberOfKeys: 1, lua: countInWindow })

  class CountingStore implements FastifyRateLimitStore {
    /** Made by the first call: its lists are long, and each limited route has a store. */
    #local?: LRUCache<string, { current: number; ends: number }>
    readonly #space: string

    constructor(options: object) {
      this.#space = spaceOf(options as Partial<StoreOptions>)
    }

    incr(key: string, done: (error: Error | null, count?: Count) => void, windowMs: number): void {
      const local = this.#countLocally(key, windowMs)
      const name = `rate-limit:${this.#space}:${key}`
      const counting = shared?.ask((redis) => redis.countInWindow(name, windowMs))
      if (!counting) done(null, local)
      else
        counting.then(
          ([current, ttl]) => done(null, { current, ttl }),
          () => done(null, local)
        )
    }

    child(options: object): FastifyRateLimitStore {
      return new CountingStore(options)
    }

    #countLocally(key: string, windowMs: number): Count {
      // By a clock that nobody puts back: the window would last that much longer.
      const now = performance.now()
      this.#local ??= new LRUCache({ max: MOST_COUNTERS })
      let counter = this.#local.get(key)
      if (!counter || counter.ends <= now) {
        counter = { current: 0, ends: now + windowMs }
        this.#local.set(key, counter)
      }
      counter.current++
      return { current: counter.current, ttl: counter.ends - now }
    }
  }
  return CountingStore as unknown as FastifyRateLimitStoreCtor
}

interface StoreOptions {
  readonly space: string
  readonly routeInfo: { readonly method?: string | string[]; readonly url?: string }
}

/** Each limit counts on its own, and all instances name it alike. */
function spaceOf({ space, routeInfo = {} }: Partial<StoreOptions>): string {
  return space ?? [routeInfo.method, routeInfo.url].join(' ')
}
