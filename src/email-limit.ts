import { LRUCache } from 'lru-cache'
import { AccountError } from '../adapters/identity/port.js'
import { isStorageError } from '../adapters/storage/errors.js'
import type { TenantId } from '../adapters/storage/port.js'
import { ApiError } from './problems.js'

/** Emails that a tenant may learn to be taken, with those that it is giving at the moment. */
const MOST_TAKEN = 60
const WINDOW_MS = 60_000
/** Tenants that are counted at a time; the least recently seen are forgotten. */
const MOST_TENANTS = 20_000

/** Lets an admin give emails to users. */
export interface EmailLimit {
  /**
   * Runs what gives one.
   * @throws ApiError `rate_limited` after many that were taken: emails belong to one user of all tenants,
   * and who has an account elsewhere is not to be found out by trying.
   */
  guard<T>(tenant: TenantId, give: () => Promise<T>): Promise<T>
}

/** @param clock milliseconds of a clock that nobody puts back. */
export function createEmailLimit(clock: () => number = () => performance.now()): EmailLimit {
  const counters = new LRUCache<TenantId, { taken: number; ends: number }>({ max: MOST_TENANTS })

  return {
    async guard(tenant, give) {
      let counter = counters.get(tenant)
      if (!counter || counter.ends <= clock()) {
        counter = { taken: 0, ends: clock() + WINDOW_MS }
        counters.set(tenant, counter)
      }
      if (counter.taken >= MOST_TAKEN) throw tooMany(counter.ends - clock())
      // Counted before it is known, so that many at once are as many as one after the other.
      counter.taken++
      try {
        const given = await give()
        counter.taken--
        return given
      } catch (error) {
        if (!isTaken(error)) counter.taken--
        throw error
      }
    }
  }
}

function isTaken(error: unknown): boolean {
  if (error instanceof AccountError) return error.code === 'email_taken'
  return isStorageError(error, 'conflict') && error.fields.includes('email')
}

function tooMany(waitMs: number): ApiError {
  const seconds = Math.ceil(waitMs / 1000)
  return new ApiError(
    'rate_limited',
    `Too many emails that are taken, or too many at once. Try again in ${seconds} s.`,
    { headers: { 'retry-after': String(seconds) } }
  )
}
