import { once } from 'node:events'
import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { setTimeout as later } from 'node:timers/promises'
import type { Teardown } from './storages.js'

/** A request as the upstream got it. */
export interface Received {
  readonly body: ChatRequest
  readonly headers: IncomingHttpHeaders
  readonly socket: Socket
  readonly response: ServerResponse
  /** Resolves when the connection ends without the answer being complete. */
  readonly aborted: Promise<void>
}

export interface ChatRequest {
  readonly model: string
  readonly messages: readonly { readonly role: string; readonly content: string }[]
  readonly stream?: boolean
  readonly [name: string]: unknown
}

export interface Upstream {
  /** For OPENAI_BASE_URL. */
  readonly url: string
  readonly requests: readonly Received[]
  /** Connections that were opened so far. */
  readonly connections: number
  /** Resolves when the request of this number, from 0, is there. */
  received(number: number): Promise<Received>
  /** Replaces how requests are answered from now on. */
  answer: (request: Received) => unknown
}

/** A server that speaks OpenAI's chat completions, and whose sockets a test can watch. */
export async function startUpstream(
  t: Teardown,
  answer: (request: Received) => unknown = answerWith('Hello!')
): Promise<Upstream> {
  const requests: Received[] = []
  const waiting = new Map<number, (request: Received) => void>()
  let connections = 0
  const server = createServer(async (request, response) => {
    let text = ''
    for await (const piece of request.setEncoding('utf8')) text += piece
    const aborted = new Promise<void>((resolve) =>
      response.once('close', () => {
        if (!response.writableFinished) resolve()
      })
    )
    const { headers, socket } = request
    const received = { body: JSON.parse(text), headers, socket, response, aborted }
    requests.push(received)
    waiting.get(requests.length - 1)?.(received)
    await upstream.answer(received)
  })
  server.on('connection', () => connections++)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })

  const upstream: Upstream = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    requests,
    get connections() {
      return connections
    },
    async received(number) {
      return requests[number] ?? new Promise((resolve) => waiting.set(number, resolve))
    },
    answer
  }
  return upstream
}

/** Answers every request with a text, at once or in pieces, as asked. */
export function answerWith(...pieces: readonly string[]) {
  return (request: Received): void => {
    if (request.body.stream) {
      beginStream(request)
      for (const piece of pieces) sendPiece(request, piece)
      endStream(request)
    } else sendCompletion(request, pieces.join(''))
  }
}

export const tokens = { prompt_tokens: 3, completion_tokens: 5, total_tokens: 8 }
export const created = 1_769_851_800

export function sendCompletion(
  { body, response }: Received,
  content: string,
  usage: object = tokens
): void {
  response.setHeader('content-type', 'application/json')
  response.end(
    JSON.stringify({
      id: 'chatcmpl-1',
      object: 'chat.completion',
      created,
      model: `${body.model}-2026`,
      choices: [{ index: 0, message: { role: 'assistant', content }, finish_reason: 'stop' }],
      usage
    })
  )
}

export function beginStream({ response }: Received): void {
  response.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders()
}

export function sendPiece(request: Received, content: string): boolean {
  return sendChunk(request, [{ index: 0, delta: { content }, finish_reason: null }])
}

export function endStream(request: Received, finish_reason = 'stop'): void {
  sendChunk(request, [{ index: 0, delta: {}, finish_reason }])
  sendChunk(request, [], tokens)
  request.response.end('data: [DONE]\n\n')
}

export function sendChunk(
  { body, response }: Received,
  choices: readonly object[],
  usage: object | null = null
): boolean {
  const chunk = { id: 'chatcmpl-1', object: 'chat.completion.chunk', created, choices, usage }
  return response.write(`data: ${JSON.stringify({ ...chunk, model: `${body.model}-2026` })}\n\n`)
}

/** Waits while what nobody reads fills the buffers of the system, until no more of it is sent. */
export async function untilAtRest(sent: () => number): Promise<void> {
  for (let rested = 0, before = -1; rested < 20; rested++) {
    await later(10)
    const now = sent()
    if (now !== before) rested = 0
    before = now
  }
}

/** Answers with a message, or with a stream of it as one piece, of whatever form and ending. */
export function answerOddly(message: unknown, about: object = {}, finish_reason: unknown = 'stop') {
  return ({ body, response }: Received): void => {
    const choice = { index: 0, finish_reason }
    const answer = { id: 'chatcmpl-1', created, model: body.model, ...about }
    if (body.stream) {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      const chunk = { ...answer, choices: [{ ...choice, delta: message }] }
      response.end(`data: ${JSON.stringify(chunk)}\n\ndata: [DONE]\n\n`)
    } else {
      response.setHeader('content-type', 'application/json')
      response.end(JSON.stringify({ ...answer, choices: [{ ...choice, message }] }))
    }
  }
}

/** Refuses a request as a provider does. */
export function refuseWith(
  status: number,
  error: object = { message: 'No.' },
  headers: Readonly<Record<string, string>> = {}
) {
  return ({ response }: Received): void => {
    response.writeHead(status, { 'content-type': 'application/json', ...headers })
    response.end(JSON.stringify({ error }))
  }
}
