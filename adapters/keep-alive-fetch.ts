import http from 'node:http'
import https from 'node:https'

/**
 * The part of `fetch` that the openai package and supabase-js use, over node:http: two fifths of the
 * processor time of the built-in fetch (docs/decisions/0007), and one connection for each call in
 * flight, kept for the next.
 */
export interface KeepAliveFetch {
  readonly fetch: typeof fetch
  /** Ends all connections, those in use too. */
  close(): void
}

export interface KeepAliveOptions {
  /**
   * The server may end an idle connection in the moment that a request takes it. One that was used before,
   * and breaks so soon after the request and before any answer, in milliseconds, is taken for that: the
   * request is sent again, once, on a new connection. By default none is.
   */
  readonly resendMs?: number
  /** How long a connection is kept idle, in milliseconds; as long as the server keeps it by default. */
  readonly idleMs?: number
  /** What an answer may take up in memory when it is read as a whole, in characters. */
  readonly mostText?: number
  /** What an event of a streamed answer may, in bytes: whoever reads it keeps all of it, to its blank line. */
  readonly mostEvent?: number
}

export function createKeepAliveFetch(
  baseUrl: string,
  {
    resendMs = 0,
    idleMs,
    mostText = Number.POSITIVE_INFINITY,
    mostEvent = Number.POSITIVE_INFINITY
  }: KeepAliveOptions = {}
): KeepAliveFetch {
  const { protocol } = new URL(baseUrl)
  const { Agent, request } = protocol === 'https:' ? https : http
  // The busiest connection first, so that those that are no longer needed go idle and end.
  const kept = new Agent({
    keepAlive: true,
    maxFreeSockets: 256,
    scheduling: 'lifo',
    ...(idleMs === undefined ? {} : { timeout: idleMs })
  })
  /** Connects anew for each request. */
  const fresh = new Agent()

  function send(url: string, init: RequestInit, agent: http.Agent): Promise<HttpResponse> {
    return new Promise((resolve, reject) => {
      const body = init.body as string | undefined
      const headers = Object.fromEntries(init.headers as Headers)
      if (body !== undefined) headers['content-length'] = `${Buffer.byteLength(body)}`
      let answered = false
      const begun = performance.now()
      const sent = request(url, { method: init.method ?? 'GET', headers, agent }, (message) => {
        answered = true
        resolve(new HttpResponse(message, mostText, mostEvent))
      })
      const signal = init.signal as AbortSignal
      const abort = () => sent.destroy(signal.reason as Error)
      if (signal.aborted) abort()
      else signal.addEventListener('abort', abort, { once: true })
      sent.once('close', () => signal.removeEventListener('abort', abort))
      sent.on('error', (error: NodeJS.ErrnoException) => {
        const isUnanswered = wasCut(error) && !answered && !signal.aborted
        if (isUnanswered && sent.reusedSocket && performance.now() - begun < resendMs)
          send(url, init, fresh).then(resolve, reject)
        else reject(error)
      })
      // The requests of one turn of the event loop are written one after the other, at its end: a
      // server that sleeps is woken by the first for all.
      setImmediate(() => {
        try {
          if (!sent.destroyed) sent.end(body)
        } catch (error) {
          sent.destroy(error as Error)
        }
      })
    })
  }

  return {
    fetch: ((url: string, init: RequestInit) => send(url, init, kept)) as unknown as typeof fetch,
    close() {
      kept.destroy()
      fresh.destroy()
    }
  }
}

function wasCut({ code }: NodeJS.ErrnoException): boolean {
  return code === 'ECONNRESET' || code === 'EPIPE'
}

/** What the packages read of a response. Redirects are not followed: they would take the key along. */
class HttpResponse {
  readonly status: number
  readonly ok: boolean
  readonly statusText: string
  readonly headers: ResponseHeaders
  private whole: Promise<string> | undefined

  constructor(
    private readonly message: http.IncomingMessage,
    private readonly mostText: number,
    private readonly mostEvent: number
  ) {
    this.status = message.statusCode as number
    this.statusText = message.statusMessage ?? ''
    this.ok = this.status >= 200 && this.status < 300
    this.headers = new ResponseHeaders(message.headers)
  }

  get body(): AsyncIterable<Buffer> {
    return withBoundedEvents(this.message, this.mostEvent)
  }

  /** Can be asked for again. */
  text(): Promise<string> {
    this.whole ??= this.read()
    return this.whole
  }

  private read(): Promise<string> {
    const { message, mostText } = this
    return new Promise((resolve, reject) => {
      let text = ''
      message.setEncoding('utf8')
      message.on('data', (piece: string) => {
        text += piece
        if (text.length > mostText) message.destroy(new Error('The answer is too long'))
      })
      message.once('end', () => resolve(text))
      message.once('error', reject)
    })
  }

  async json(): Promise<unknown> {
    return JSON.parse(await this.text())
  }
}

const BLANK_LINES = ['\n\n', '\r\n\r\n', '\r\r']
const LONGEST_BLANK_LINE = 4

/** @throws Error where an event goes on for longer than it may. */
async function* withBoundedEvents(
  pieces: AsyncIterable<Buffer>,
  mostBytes: number
): AsyncGenerator<Buffer> {
  // Since the last blank line; the end of it may be a part of the next one.
  let length = 0
  let end: Buffer = Buffer.alloc(0)
  for await (const piece of pieces) {
    const seen = Buffer.concat([end, piece])
    const blank = Math.max(...BLANK_LINES.map((each) => seen.lastIndexOf(each)))
    length = blank < 0 ? length + piece.length : seen.length - blank
    if (length > mostBytes) throw new Error('An event is too long')
    end = seen.subarray(1 - LONGEST_BLANK_LINE)
    yield piece
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
