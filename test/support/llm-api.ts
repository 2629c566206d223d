import { once } from 'node:events'
import { type ClientRequest, type IncomingMessage, request } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type Person, type TestApi, type TestApiOptions, testApi } from './api.js'
import type { Teardown } from './storages.js'

/** A key that is to be found nowhere. */
export const PROVIDER_KEY = 'sk-test-4c0ffee4c0ffee4c0ffee'

export interface LlmApi extends TestApi {
  readonly admin: Person
  /** Where the app listens. */
  readonly port: number
  /** LLM requests that have come and not ended. */
  callsUnderWay(): number
}

/** The API in front of an upstream, listening, with an admin signed in. */
export async function llmApi(
  t: Teardown,
  upstreamUrl: string,
  { env, ...options }: TestApiOptions = {}
): Promise<LlmApi> {
  const api = await testApi(t, {
    ...options,
    env: {
      OPENAI_API_KEY: PROVIDER_KEY,
      OPENAI_BASE_URL: upstreamUrl,
      LLM_RATE_LIMIT_PER_MINUTE: '1000000',
      ...env
    }
  })
  const admin = await api.register()
  await api.app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = api.app.server.address() as AddressInfo
  let underWay = 0
  api.app.server.on('request', ({ url }, response) => {
    if (!url?.startsWith('/api/llm/')) return
    underWay++
    response.once('close', () => underWay--)
  })
  return { ...api, admin, port, callsUnderWay: () => underWay }
}

export interface Exchange {
  readonly request: ClientRequest
  /** Resolves when the headers are there. */
  readonly response: Promise<IncomingMessage>
}

/** Sends a request over a socket of its own, which a test can end or leave unread. */
export function exchange(
  { port, admin }: Pick<LlmApi, 'port' | 'admin'>,
  path: string,
  body?: object
): Exchange {
  const sent = request({
    port,
    host: '127.0.0.1',
    path: `/api${path}`,
    method: body ? 'POST' : 'GET',
    agent: false,
    headers: {
      authorization: `Bearer ${admin.token}`,
      ...(body ? { 'content-type': 'application/json' } : {})
    }
  })
  sent.end(body && JSON.stringify(body))
  const response = once(sent, 'response').then(([response]) => response as IncomingMessage)
  // A test that ends its request, or whose server ends it, does not wait for an answer.
  sent.on('error', () => {})
  response.catch(() => {})
  return { request: sent, response }
}

export interface Event {
  readonly event: string
  // biome-ignore lint/suspicious/noExplicitAny: what is in it is what a test looks at
  readonly data: any
}

/** The events of a text of Server-Sent Events; comments are left out. */
export function readEvents(text: string): Event[] {
  return text
    .split('\n\n')
    .map((block) => block.split('\n').filter((line) => line !== '' && !line.startsWith(':')))
    .filter((lines) => lines.length > 0)
    .map((lines) => {
      const field = (name: string) =>
        lines
          .filter((line) => line.startsWith(`${name}: `))
          .map((line) => line.slice(name.length + 2))
          .join('\n')
      return { event: field('event') || 'message', data: JSON.parse(field('data')) }
    })
}

/** The pieces of a streamed answer. */
export function deltasOf(events: readonly Event[]): string[] {
  return events.filter(({ data }) => 'delta' in data).map(({ data }) => data.delta)
}

/** Everything that a response sends. */
export async function readAll(response: IncomingMessage): Promise<string> {
  let text = ''
  for await (const piece of response.setEncoding('utf8')) text += piece
  return text
}

/** What a response sends until a text is in it; the rest stays to be read. */
export async function readUntil(response: IncomingMessage, wanted: string): Promise<string> {
  let text = ''
  response.setEncoding('utf8')
  for await (const piece of response.iterator({ destroyOnReturn: false })) {
    text += piece
    if (text.includes(wanted)) return text
  }
  throw new Error(`The response ended without ${wanted}: ${text}`)
}
