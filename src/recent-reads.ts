import { LRUCache } from 'lru-cache'
import type { Awaitable } from '../adapters/awaitable.js'

/** How long a change made through another process may go unseen. */
const TTL_MS = 60_000
const MOST_REMEMBERED = 10_000

/** What was read lately, for what every request asks. */
export interface RecentReads<T> {
  /** Null where there is none, which is asked anew each time. At most a minute old. */
  get(key: string): Awaitable<T | null>
  /** Makes a change of this process show at once. */
  forget(key: string): void
}

/** @param now milliseconds of a clock that nobody puts back, which is `performance.now` by default. */
export function createRecentReads<T extends object>(
  read: (key: string) => Promise<T | null>,
  now: () => number = () => performance.now()
): RecentReads<T> {
  const cache = new LRUCache<string, T | Promise<T | null>>({
    max: MOST_REMEMBERED,
    ttl: TTL_MS,
    ttlResolution: 0,
    perf: { now }
  })

  return {
    get(key) {
      const known = cache.get(key)
      if (known) return known
      const reading = read(key)
      cache.set(key, reading)
      // Unless it was forgotten meanwhile, and no longer than a minute from when the read began.
      const settle = (found: T | null) => {
        if (cache.peek(key) !== reading) return
        if (found) cache.set(key, found, { noUpdateTTL: true })
        else cache.delete(key)
      }
      reading.then(settle, () => settle(null))
      return reading
    },

    forget(key) {
      cache.delete(key)
    }
  }
}
