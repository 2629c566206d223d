import { LRUCache } from 'lru-cache'
import { AccountError } from '../adapters/identity/port.js'
import { isStorageError } from '../adapters/storage/errors.js'
import { tooMany } from './problems.js'

/** Emails that one may learn to be taken, with those that are being given at the moment. */
const MOST_TAKEN = 60
const WINDOW_MS = 60_000
const EMAILS = 'emails that are taken, or too many at once'
/** How many are counted at a time; the least recently seen are forgotten. */
const MOST_COUNTED = 20_000

/** Lets users get emails. */
export interface EmailLimit {
  /**
   * Runs what gives a user one.
   * @param who whose tries count together: a tenant's admins, or all of it who change their own.
   * @throws ApiError `rate_limited` after many that were taken: emails belong to one user of all tenants,
   * and who has an account elsewhere is not to be found out by trying.
   */
  guard<T>(who: string, give: () => Promise<T>): Promise<T>
}

/** @param clock milliseconds of a clock that nobody puts back. */
export function createEmailLimit(clock: () => number = () => performance.now()): EmailLimit {
  const windows = new LRUCache<string, Window>({ max: MOST_COUNTED })

  function windowOf(who: string): Window {
    const known = windows.get(who)
    if (known && known.ends > clock()) return known
    const window = { taken: 0, underWay: 0, ends: clock() + WINDOW_MS }
    windows.set(who, window)
    return window
  }

  return {
    async guard(who, give) {
      const window = windowOf(who)
      const { taken, underWay, ends } = window
      if (taken >= MOST_TAKEN) throw tooMany(EMAILS, ends - clock())
      // Of those under way it is not known yet: many at once are as many as one after the other.
      if (taken + underWay >= MOST_TAKEN) throw tooMany(EMAILS, 1000)
      window.underWay++
      try {
        return await give()
      } catch (error) {
        if (isTaken(error)) window.taken++
        throw error
      } finally {
        window.underWay--
      }
    }
  }
}

interface Window {
  /** Emails that others turned out to have. */
  taken: number
  underWay: number
  /** In milliseconds of the clock. */
  readonly ends: number
}

function isTaken(error: unknown): boolean {
  if (error instanceof AccountError) return error.code === 'email_taken'
  return isStorageError(error, 'conflict') && error.fields.includes('email')
}
