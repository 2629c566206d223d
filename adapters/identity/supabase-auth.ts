import { AuthClient, type User } from '@supabase/supabase-js'
import { fetchText, NoAnswer, parseError } from '../fetch-text.js'
import { StorageError } from '../storage/errors.js'

/** Requests to the Auth server of a Supabase project. */
export interface AuthServer {
  /** `https://….supabase.co/auth/v1` */
  readonly url: string
  /** What says that the server asks, and nobody else. */
  readonly headers: Readonly<Record<string, string>>
  /**
   * Sends a request through a client of its own: after a sign-in, a client sends the user's token
   * with everything it does next.
   * @throws AuthRefusal or NoAnswer
   */
  ask<A extends AuthAnswer>(send: (client: Client) => Promise<A>): Promise<A['data']>
  /** The user with an address, which the client has no request for. */
  findUser(email: string): Promise<User | null>
}

type Client = InstanceType<typeof AuthClient>
interface AuthAnswer {
  readonly data: unknown
  readonly error: unknown
}

/** Codes: https://supabase.com/docs/guides/auth/debugging/error-codes */
export class AuthRefusal extends Error {
  readonly code: string | undefined

  constructor(
    readonly status: number,
    text: string
  ) {
    const { code, error_code, error, msg, message, error_description } = parseError(text)
    super(message ?? msg ?? error_description ?? `HTTP ${status}`)
    // By age of the server: `code`, `error_code` beside a numeric `code`, or `error`.
    this.code = typeof code === 'string' ? code : (error_code ?? error)
  }
}

/** Whether Auth answered with one of these codes. */
export function isRefusal(error: unknown, ...codes: readonly string[]): error is AuthRefusal {
  return error instanceof AuthRefusal && codes.includes(error.code ?? '')
}

/** Whether a request may have been carried out although it failed. */
export function isUnclear(error: unknown): boolean {
  if (error instanceof NoAnswer) return error.wasSent
  return error instanceof AuthRefusal && error.status >= 500
}

/**
 * What is not the user's fault is ours or the project's, and may be over soon: Auth is down, limits
 * our calls, does not know our key, or has its password sign-in switched off.
 */
export function asUnavailable(error: unknown): unknown {
  if (!(error instanceof AuthRefusal || error instanceof NoAnswer)) return error
  const code = error instanceof AuthRefusal && error.code ? ` (${error.code})` : ''
  const message = `Supabase Auth cannot be used: ${error.message}${code}`
  return new StorageError('unavailable', { cause: error }, message)
}

export function connectAuthServer(project: string, key: string, timeoutMs: number): AuthServer {
  const url = `${project.replace(/\/+$/, '')}/auth/v1`
  const headers = { apikey: key, Authorization: `Bearer ${key}` }

  async function findOnPage(email: string, page: number) {
    const query = new URLSearchParams({ filter: email, page: `${page}`, per_page: '200' })
    const signal = AbortSignal.timeout(timeoutMs)
    const answer = await fetchSuccess(`${url}/admin/users?${query}`, { headers, signal })
    const { users } = (await answer.json()) as { users: User[] }
    return { isLast: users.length === 0, found: users.find((user) => user.email === email) }
  }

  return {
    url,
    headers,

    async ask(send) {
      let failure: unknown
      const signal = AbortSignal.timeout(timeoutMs)
      const client = new AuthClient({
        url,
        headers: { ...headers },
        persistSession: false,
        autoRefreshToken: false,
        detectSessionInUrl: false,
        // The client prints failures, and repeats a refresh for half a minute while the server is
        // down: it gets an answer that ends it, and what happened is kept here.
        fetch: async (address, init) => {
          try {
            return await fetchSuccess(address, { ...init, signal })
          } catch (error) {
            failure = error
            return new Response('{}', { status: 400 })
          }
        }
      })
      const { data, error } = await send(client)
      if (failure ?? error) throw failure ?? error
      return data
    },

    async findUser(email) {
      for (let page = 1; ; page++) {
        const { found, isLast } = await findOnPage(email, page)
        if (found || isLast) return found ?? null
      }
    }
  }
}

/** @throws AuthRefusal or NoAnswer: also for a success that Auth did not write, but a proxy. */
async function fetchSuccess(...request: Parameters<typeof fetch>): Promise<Response> {
  const { response, text } = await fetchText(fetch, ...request)
  if (!response.ok) throw new AuthRefusal(response.status, text)
  if (text && !isJson(text)) throw new AuthRefusal(502, '')
  return new Response(text || null, { status: response.status })
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}
