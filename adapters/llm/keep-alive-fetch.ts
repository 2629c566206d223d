import http from 'node:http'
import https from 'node:https'

/**
 * The part of `fetch` that the openai package uses, over node:http: a third of the processor time
 * of the built-in fetch (see bench/README.md), and one connection for each call in flight, kept
 * for the next.
 */
export interface KeepAliveFetch {
  readonly fetch: typeof fetch
  /** Ends idle connections. */
  close(): void
}

/** What a body may take up in memory when it is read as a whole, in characters. */
const MOST_BODY = 16 * 1024 * 1024

export function createKeepAliveFetch(baseUrl: string): KeepAliveFetch {
  const { protocol } = new URL(baseUrl)
  const { Agent, request } = protocol === 'https:' ? https : http
  // The busiest connection first, so that those that are no longer needed go idle and end.
  const agent = new Agent({ keepAlive: true, maxFreeSockets: 256, scheduling: 'lifo' })

  function send(url: string, init: RequestInit): Promise<HttpResponse> {
    return new Promise((resolve, reject) => {
      const body = init.body as string | undefined
      const headers = Object.fromEntries(init.headers as Headers)
      if (body !== undefined) headers['content-length'] = `${Buffer.byteLength(body)}`
      let answered = false
      const sent = request(url, { method: init.method ?? 'GET', headers, agent }, (message) => {
        answered = true
        resolve(new HttpResponse(message))
      })
      const signal = init.signal as AbortSignal
      const abort = () => sent.destroy(signal.reason as Error)
      if (signal.aborted) abort()
      else signal.addEventListener('abort', abort, { once: true })
      sent.once('close', () => signal.removeEventListener('abort', abort))
      sent.on('error', (error: NodeJS.ErrnoException) => {
        // The server may end an idle connection in the moment that we take it. A connection that
        // was used before and broke before any answer is taken for that; the next is tried.
        if (sent.reusedSocket && wasCut(error) && !answered && !signal.aborted)
          send(url, init).then(resolve, reject)
        else reject(error)
      })
      sent.end(body)
    })
  }

  return {
    fetch: ((url: string, init: RequestInit) => send(url, init)) as unknown as typeof fetch,
    close: () => agent.destroy()
  }
}

function wasCut({ code }: NodeJS.ErrnoException): boolean {
  return code === 'ECONNRESET' || code === 'EPIPE'
}

/** What the openai package reads of a response. Redirects are not followed: they would take the key along. */
class HttpResponse {
  readonly status: number
  readonly ok: boolean
  readonly headers: ResponseHeaders

  constructor(readonly body: http.IncomingMessage) {
    this.status = body.statusCode as number
    this.ok = this.status >= 200 && this.status < 300
    this.headers = new ResponseHeaders(body.headers)
  }

  text(): Promise<string> {
    const { body } = this
    return new Promise((resolve, reject) => {
      let text = ''
      body.setEncoding('utf8')
      body.on('data', (piece: string) => {
        text += piece
        if (text.length > MOST_BODY) body.destroy(new Error('The answer is too long'))
      })
      body.once('end', () => resolve(text))
      body.once('error', reject)
    })
  }

  async json(): Promise<unknown> {
    return JSON.parse(await this.text())
  }
}

class ResponseHeaders {
  constructor(private readonly values: http.IncomingHttpHeaders) {}

  get(name: string): string | null {
    const value = this.values[name.toLowerCase()]
    return value === undefined ? null : String(value)
  }

  entries(): IterableIterator<[string, string]> {
    return Object.entries(this.values as Record<string, string>).values()
  }

  [Symbol.iterator](): IterableIterator<[string, string]> {
    return this.entries()
  }
}
