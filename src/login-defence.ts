import { LRUCache } from 'lru-cache'
import { ApiError } from './problems.js'

/** A try to sign in that is under way. It counts as failed until it is said not to be. */
export interface Attempt {
  succeeded(): void
  /** It came to no end, so that it says nothing about the password. */
  abandoned(): void
}

export interface LoginDefence {
  /** @throws ApiError `rate_limited`, with the same text whether there is such an account or not. */
  begin(email: string, address: string): Attempt
}

interface Failures {
  count: number
  /** Nobody may try before, in milliseconds of the clock. */
  until: number
}

/** How tries are slowed down: some are free, then each wait is twice the one before. */
interface Slowing {
  readonly free: number
  readonly mostMs: number
}

/** One address that guesses at one account. */
const ofAddress: Slowing = { free: 5, mostMs: 5 * 60_000 }
/**
 * All addresses together that guess at one account: more is free, and the wait stays short, since
 * strangers can make its owner wait.
 */
const ofAccount: Slowing = { free: 20, mostMs: 30_000 }
/** Failures are forgotten so long after the last one. */
const MEMORY_MS = 15 * 60_000
/** How long an address counts as its owner's after a sign-in. */
const KNOWN_MS = 30 * 24 * 60 * 60_000
/** Accounts, and addresses of accounts, that are remembered at a time: the least recent are forgotten. */
const MOST_REMEMBERED = 20_000

/**
 * Slows guesses at passwords down, for each account and for each address that tries it. An address
 * from which somebody signed in to the account lately is spared the wait that strangers cause, so
 * that they cannot lock its owner out. Accounts are known by what was typed: that there is none
 * shows nowhere.
 */
export function createLoginDefence(clock: () => number = Date.now): LoginDefence {
  const perf = { now: clock }
  const remembered = { max: MOST_REMEMBERED, perf, ttlResolution: 0 }
  const failures = new LRUCache<string, Failures>({ ...remembered, ttl: MEMORY_MS })
  const known = new LRUCache<string, true>({ ...remembered, ttl: KNOWN_MS })

  function fail(key: string, { free, mostMs }: Slowing): void {
    const count = (failures.get(key)?.count ?? 0) + 1
    const waitMs = count < free ? 0 : Math.min(1000 * 2 ** (count - free), mostMs)
    failures.set(key, { count, until: clock() + waitMs })
  }

  function takeBack(key: string): void {
    const found = failures.get(key)
    if (found && found.count > 1) failures.set(key, { count: found.count - 1, until: 0 })
    else failures.delete(key)
  }

  return {
    begin(email, address) {
      const account = email.toLowerCase()
      const pair = `${address} ${account}`
      const isKnown = known.has(pair)
      const slowing = isKnown ? [pair] : [pair, account]
      const until = Math.max(...slowing.map((key) => failures.get(key)?.until ?? 0))
      if (until > clock()) throw tooMany(until - clock())
      fail(pair, ofAddress)
      if (!isKnown) fail(account, ofAccount)
      return {
        succeeded() {
          failures.delete(pair)
          if (!isKnown) takeBack(account)
          known.set(pair, true)
        },
        abandoned() {
          for (const key of slowing) takeBack(key)
        }
      }
    }
  }
}

function tooMany(waitMs: number): ApiError {
  const seconds = Math.ceil(waitMs / 1000)
  return new ApiError(
    'rate_limited',
    `Too many failed sign-ins with this address. Try again in ${seconds} seconds.`,
    { headers: { 'retry-after': String(seconds) } }
  )
}
