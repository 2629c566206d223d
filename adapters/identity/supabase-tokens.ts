import {
  createRemoteJWKSet,
  decodeJwt,
  decodeProtectedHeader,
  errors,
  type JWTPayload,
  jwtVerify
} from 'jose'
import { LRUCache } from 'lru-cache'
import { StorageError } from '../storage/errors.js'

export interface TokenVerifierOptions {
  /** Where the public keys are published. */
  readonly keysUrl: string
  /** Sent along when they are fetched. */
  readonly headers: Readonly<Record<string, string>>
  /** Who must have made the tokens. */
  readonly issuer: string
  /** The secret of projects that sign with HS256. */
  readonly jwtSecret?: string | undefined
  readonly timeoutMs: number
  /** Asks the Auth server whose token it is; null where it does not accept it. */
  readonly askServer: (token: string) => Promise<string | null>
}

/** The user that an access token names; null for every other string. */
export type TokenVerifier = (token: string) => Promise<string | null>

const AUDIENCE = 'authenticated'
/** Signatures by published keys. What a project signs with is its choice. */
const ALGORITHMS = ['ES256', 'RS256', 'EdDSA']

const MINUTE = 60_000
/** When keys are fetched again while the old ones are used on: Supabase's own edge keeps them as long. */
const KEYS_FRESH_MS = 10 * MINUTE
/** A token with an unknown key has them fetched at most this often. */
const KEYS_COOLDOWN_MS = MINUTE / 2
/**
 * Tokens with unknown keys that the Auth server is asked about in that time: a new key needs one, and
 * whoever makes tokens up has any number.
 */
const MOST_ASKED = 20
/** How long a token that was verified here is not verified again. */
const VERIFIED_MS = 5 * MINUTE
/** How long the Auth server is not asked again: a session that ends there lives on here meanwhile. */
const ASKED_MS = MINUTE / 2

interface Verdict {
  readonly user: string | null
  /** How long it holds at most, in milliseconds. */
  readonly holdsMs: number
}

const nobody: Verdict = { user: null, holdsMs: 0 }

/**
 * Verifies tokens here, by the project's published keys or by its legacy secret. Asks the Auth
 * server where neither knows the signature: without the secret, or while a new key is not
 * published everywhere.
 */
export function createTokenVerifier(options: TokenVerifierOptions): TokenVerifier {
  const { issuer, askServer, timeoutMs } = options
  const secret = options.jwtSecret ? new TextEncoder().encode(options.jwtSecret) : undefined
  const required = { issuer, audience: AUDIENCE, requiredClaims: ['exp', 'sub'] }
  const publishedKey = followKeys(options.keysUrl, options.headers, timeoutMs)
  // By the clock that tokens end by, which a machine that slept has not stopped.
  const clock = { perf: Date, ttlResolution: 0 }
  const verified = new LRUCache<string, string>({ max: 10_000, ...clock })
  // Apart, so that made-up tokens do not push out the good ones.
  const refused = new LRUCache<string, true>({ max: 1000, ttl: ASKED_MS, ...clock })
  const running = new Map<string, Promise<Verdict>>()
  const unknownKeys = limitAsking()

  /** Throws jose's errors. */
  async function verifyHere(token: string, alg: string): Promise<Verdict> {
    const { payload } =
      secret && alg === 'HS256'
        ? await jwtVerify(token, secret, { ...required, algorithms: ['HS256'] })
        : await jwtVerify(token, publishedKey, { ...required, algorithms: ALGORITHMS })
    return { user: payload.sub ?? null, holdsMs: Math.min(VERIFIED_MS, lifeOf(payload)) }
  }

  async function verifyThere(token: string, claims: JWTPayload): Promise<Verdict> {
    const user = await askServer(token)
    return {
      user: user === claims.sub ? user : null,
      holdsMs: Math.min(ASKED_MS, lifeOf(claims))
    }
  }

  async function judge(token: string): Promise<Verdict> {
    const read = readToken(token)
    if (!read || !isPlausible(read.claims, issuer)) return nobody
    const { alg, kid, claims } = read
    const isVerifiable = alg === 'HS256' ? secret !== undefined : ALGORITHMS.includes(alg)
    if (!isVerifiable && alg !== 'HS256') return nobody
    if (isVerifiable)
      try {
        return await verifyHere(token, alg)
      } catch (error) {
        if (isOneOf(verdicts, error)) return nobody
        if (isOneOf(ofUnknownKeys, error)) unknownKeys.assertMayAsk(kid)
      }
    const verdict = await verifyThere(token, claims)
    if (verdict.user !== null) unknownKeys.accept(kid)
    return verdict
  }

  return async (token) => {
    const known = verified.get(token)
    if (known !== undefined) return known
    if (refused.has(token)) return null
    const judging = running.get(token) ?? judge(token).finally(() => running.delete(token))
    running.set(token, judging)
    const { user, holdsMs } = await judging
    if (user !== null && holdsMs > 0) verified.set(token, user, { ttl: holdsMs })
    else if (holdsMs > 0) refused.set(token, true)
    return user
  }
}

/**
 * The published keys, fetched when the first token comes, again when one names an unknown key, and
 * every few minutes behind the back of the requests: a key that is withdrawn goes, and while the
 * server is down the old ones stay.
 */
function followKeys(url: string, headers: Readonly<Record<string, string>>, timeoutMs: number) {
  const keys = createRemoteJWKSet(new URL(url), {
    headers,
    timeoutDuration: timeoutMs,
    cooldownDuration: KEYS_COOLDOWN_MS,
    cacheMaxAge: Number.POSITIVE_INFINITY
  })
  let fetchedAt = performance.now()
  return (...token: Parameters<typeof keys>) => {
    if (performance.now() - fetchedAt > KEYS_FRESH_MS) {
      fetchedAt = performance.now()
      keys.reload().catch(() => {})
    }
    return keys(...token)
  }
}

/**
 * Which tokens with unknown keys to ask about: few, but all of a key that the Auth server has just
 * accepted. Good ones of a new key wait until it is published where made-up ones use up what is few.
 */
function limitAsking() {
  const accepted = new LRUCache<string, true>({ max: 10, ttl: KEYS_FRESH_MS })
  let asked = 0
  let countsUntil = 0
  return {
    /** @throws StorageError `unavailable`: a good token will do in a moment, and a bad one never. */
    assertMayAsk(kid: string): void {
      if (accepted.has(kid)) return
      const now = performance.now()
      if (now >= countsUntil) {
        asked = 0
        countsUntil = now + KEYS_COOLDOWN_MS
      }
      if (++asked > MOST_ASKED) throw new StorageError('unavailable', {}, 'Too many unknown keys.')
    },
    accept(kid: string): void {
      // Without a name it may be any key.
      if (kid) accepted.set(kid, true)
    }
  }
}

/** What a token says, unverified; null for what is no token. */
export function claimsOf(token: string): JWTPayload | null {
  return readToken(token)?.claims ?? null
}

function readToken(token: string): { alg: string; kid: string; claims: JWTPayload } | null {
  try {
    const { alg = '', kid = '', crit } = decodeProtectedHeader(token)
    // Extensions that have to be understood (RFC 7515, 4.1.11), of which Supabase Auth uses none.
    if (crit !== undefined) return null
    return { alg, kid, claims: decodeJwt(token) }
  } catch {
    return null
  }
}

/** Whether it could be a token of ours by what it says itself; saves asking about the others. */
function isPlausible({ iss, aud, sub, exp }: JWTPayload, issuer: string): boolean {
  const isForUsers = Array.isArray(aud) ? aud.includes(AUDIENCE) : aud === AUDIENCE
  return iss === issuer && isForUsers && typeof sub === 'string' && lifeOf({ exp }) > 0
}

function lifeOf({ exp }: { exp?: unknown }): number {
  return typeof exp === 'number' ? Math.floor(exp * 1000) - Date.now() : 0
}

/** The published keys do not tell which of them signed: the Auth server is to be asked. */
const ofUnknownKeys = [errors.JWKSNoMatchingKey, errors.JWKSMultipleMatchingKeys]
/** The token was judged, and not the search for its key. */
const verdicts = [
  errors.JWSSignatureVerificationFailed,
  errors.JWTClaimValidationFailed,
  errors.JWTExpired,
  errors.JWSInvalid,
  errors.JWTInvalid,
  errors.JOSEAlgNotAllowed
]

function isOneOf(kinds: readonly (new (...args: never[]) => Error)[], error: unknown): boolean {
  return kinds.some((kind) => error instanceof kind)
}
