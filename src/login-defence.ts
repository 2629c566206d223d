import { hash } from 'node:crypto'
import { normalizeIP } from '@fastify/rate-limit'
import type { Result } from 'ioredis'
import { LRUCache } from 'lru-cache'
import { DAY_MS } from './durations.js'
import { ApiError, type ProblemCode, tooMany } from './problems.js'
import type { SharedRedis } from './redis.js'

declare module 'ioredis' {
  interface RedisCommander<Context> {
    beginSignIn(
      ...keys: [pair: string, email: string, known: string, ...settings: number[]]
    ): Result<[waitMs: number, counted: number], Context>
    takeBackSignIn(
      keys: number,
      ...keysAndCounted: [known: string, email: string, ...pairAndCounted: (string | number)[]]
    ): Result<null, Context>
  }
}

/** A try to sign in that is under way. It counts as failed until it is said not to be. */
export interface SignInAttempt {
  succeeded(): void
  /** It came to no end, so that it says nothing about the password. */
  abandoned(): void
}

export interface LoginDefence {
  /** @throws ApiError `rate_limited`, with the same text whether there is such an account or not. */
  begin(email: string, address: string): Promise<SignInAttempt>
  /** Runs a try, which throws that the password is wrong; whatever else it throws says nothing of that. */
  guard<T>(email: string, address: string, run: () => Promise<T>): Promise<T>
}

const wrongPassword: readonly ProblemCode[] = ['invalid_credentials', 'wrong_password']

/** What is counted: an account, and an address that tries it. */
interface Target {
  readonly email: string
  readonly pair: string
}

/** How long to wait, in milliseconds; where that is 0, an attempt that counts. */
interface Verdict {
  readonly waitMs: number
  readonly attempt: SignInAttempt
}

/** Without a wait where Redis did not tell it in time. */
type LateVerdict = Partial<Verdict> & Pick<Verdict, 'attempt'>

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
const KNOWN_MS = 30 * DAY_MS
/** Accounts, and addresses of accounts, that are remembered at a time: the least recent are forgotten. */
const MOST_REMEMBERED = 20_000

/**
 * Slows guesses at passwords down, for each account and for each address that tries it. An address
 * from which somebody signed in to the account lately is spared the wait that strangers cause, so
 * that they cannot lock its owner out. Accounts are known by what was typed: that there is none
 * shows nowhere. With Redis, instances count together; while it is away each goes by what it has
 * counted itself.
 *
 * @param clock milliseconds of a clock that nobody puts back, which is `performance.now` by default.
 */
export function createLoginDefence(
  shared?: SharedRedis,
  clock: () => number = () => performance.now()
): LoginDefence {
  const beginHere = countHere(clock)
  const beginTogether = shared && countTogether(shared)

  async function begin(typed: string, address: string): Promise<SignInAttempt> {
    const email = typed.toLowerCase()
    // IPv6 by its /64, as in rate limits: whoever has one address of such a network has them all.
    const target = { email, pair: `${normalizeIP(address)} ${email}` }
    const here = beginHere(target)
    const together = await beginTogether?.(target)
    const attempts = [here, ...(together ? [together] : [])].map(({ attempt }) => attempt)
    const begun: SignInAttempt = {
      succeeded: () => {
        for (const attempt of attempts) attempt.succeeded()
      },
      abandoned: () => {
        for (const attempt of attempts) attempt.abandoned()
      }
    }
    const waitMs = together?.waitMs ?? here.waitMs
    if (waitMs === 0) return begun
    begun.abandoned()
    throw tooMany('sign-ins for this email that failed, or at once', waitMs)
  }

  return {
    begin,

    async guard(email, address, run) {
      const attempt = await begin(email, address)
      try {
        const result = await run()
        attempt.succeeded()
        return result
      } catch (error) {
        const isWrong = error instanceof ApiError && wrongPassword.includes(error.code)
        if (!isWrong) attempt.abandoned()
        throw error
      }
    }
  }
}

function countHere(clock: () => number): (target: Target) => Verdict {
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

  return ({ pair, email }) => {
    const isKnown = known.has(pair)
    const slowing = isKnown ? [pair] : [pair, email]
    const until = Math.max(...slowing.map((key) => failures.get(key)?.until ?? 0))
    const waitMs = Math.max(until - clock(), 0)
    if (waitMs > 0) return { waitMs, attempt: uncounted }
    fail(pair, ofAddress)
    if (!isKnown) fail(email, ofAccount)
    return {
      waitMs,
      attempt: {
        succeeded() {
          failures.delete(pair)
          if (!isKnown) takeBack(email)
          known.set(pair, true)
        },
        abandoned() {
          for (const key of slowing) takeBack(key)
        }
      }
    }
  }
}

const uncounted: SignInAttempt = { succeeded() {}, abandoned() {} }

/** By the clock of Redis. The last settings are how long failures are remembered. */
const beginSignIn = `
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local slowing = 2 - redis.call('EXISTS', KEYS[3])
  local wait = 0
  for i = 1, slowing do
    wait = math.max(wait, (tonumber(redis.call('HGET', KEYS[i], 'until')) or 0) - now)
  end
  if wait > 0 then return { wait, 0 } end
  for i = 1, slowing do
    local free, most = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
    local count = redis.call('HINCRBY', KEYS[i], 'count', 1)
    local pause = 0
    if count >= free then pause = math.min(1000 * 2 ^ (count - free), most) end
    redis.call('HSET', KEYS[i], 'until', string.format('%.0f', now + pause))
    redis.call('PEXPIRE', KEYS[i], ARGV[5])
  end
  return { 0, slowing }
`

/**
 * Of an address that was known nothing was counted for the account, and so there is nothing to take back.
 * Where it was too late to tell, it goes by whether it is known now.
 */
const takeBackSignIn = `
  local known = table.remove(KEYS, 1)
  local counted = tonumber(ARGV[1]) or 2 - redis.call('EXISTS', known)
  if counted == 1 then table.remove(KEYS, 1) end
  for _, key in ipairs(KEYS) do
    if redis.call('HINCRBY', key, 'count', -1) > 0 then redis.call('HSET', key, 'until', 0)
    else redis.call('DEL', key) end
  end
`

function countTogether(shared: SharedRedis) {
  shared.define('beginSignIn', { numberOfKeys: 3, lua: beginSignIn })
  shared.define('takeBackSignIn', { lua: takeBackSignIn })
  const settings = [ofAddress, ofAccount].flatMap(({ free, mostMs }) => [free, mostMs])

  /**
   * What cannot be taken back now is forgotten by itself.
   * @param counted 1 for the address alone, 2 for the account, too; nothing where Redis did not say it.
   */
  function attemptOf({ pair, email, known }: RedisKeys, counted: number | '' = ''): SignInAttempt {
    return {
      succeeded() {
        shared.tell((redis) => redis.del(pair))
        shared.tell((redis) => redis.takeBackSignIn(2, known, email, counted))
        shared.tell((redis) => redis.set(known, '', 'PX', KNOWN_MS))
      },
      abandoned() {
        shared.tell((redis) => redis.takeBackSignIn(3, known, email, pair, counted))
      }
    }
  }

  return (target: Target): Promise<LateVerdict> | undefined => {
    const keys = redisKeysOf(target)
    const { pair, email, known } = keys
    const begun = shared.ask((redis) =>
      redis.beginSignIn(pair, email, known, ...settings, MEMORY_MS)
    )
    return begun?.then(
      ([waitMs, counted]) => ({
        waitMs,
        attempt: waitMs > 0 ? uncounted : attemptOf(keys, counted)
      }),
      // It may count the try all the same, and only be too late to say so; or be too late to refuse it, in
      // which case one too many is taken back.
      () => ({ attempt: attemptOf(keys) })
    )
  }
}

/** What Redis has of a target. */
interface RedisKeys {
  readonly pair: string
  readonly email: string
  readonly known: string
}

function redisKeysOf({ pair, email }: Target): RedisKeys {
  return {
    pair: keyOf('failed', pair),
    email: keyOf('failed', email),
    known: keyOf('known', pair)
  }
}

/** A digest, for what was typed as an email may be a password. */
function keyOf(kind: string, text: string): string {
  return `sign-in:${kind}:${hash('sha256', text, 'base64url')}`
}
