import { once } from 'node:events'
import http from 'node:http'
import type { AddressInfo } from 'node:net'

/** Answers requests below a prefix, with `url` as it came. */
export type Route = (request: http.IncomingMessage, response: http.ServerResponse) => void

export interface GatewayOptions {
  /** By prefix, such as `/rest/v1`. */
  readonly routes: Readonly<Record<string, Route>>
  /** The token that stands behind each of the platform's opaque keys. */
  readonly opaqueKeys: Readonly<Record<string, string>>
}

export interface Gateway {
  readonly url: string
  /** Method and address of every request so far. */
  readonly requests: string[]
  close(): Promise<void>
}

/**
 * What stands before the services of a Supabase project: one address for all, which asks for an
 * API key and turns opaque keys (`sb_secret_…`) into the tokens that PostgREST understands.
 */
export async function startGateway({ routes, opaqueKeys }: GatewayOptions): Promise<Gateway> {
  const requests: string[] = []
  const server = http.createServer((request, response) => {
    requests.push(`${request.method} ${request.url}`)
    const [, route] = Object.entries(routes).find(([prefix]) => isBelow(prefix, request.url)) ?? []
    const { apikey, authorization } = request.headers
    if (!route) return answer(response, 404, { message: 'no Route matched with those values' })
    if (typeof apikey !== 'string')
      return answer(response, 401, { message: 'No API key found in request' })
    const token = opaqueKeys[apikey]
    if (!token && apikey.startsWith('sb_'))
      return answer(response, 401, { message: 'Invalid API key' })
    if (token && (!authorization || authorization === `Bearer ${apikey}`))
      request.headers.authorization = `Bearer ${token}`
    route(request, response)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    async close() {
      server.close()
      server.closeAllConnections()
      await once(server, 'close')
    }
  }
}

/** Passes requests on to a local port, without the prefix. */
export function proxyTo(prefix: string, port: number): Route {
  const agent = new http.Agent({ keepAlive: true })
  return (request, response) => {
    const { method, headers } = request
    const path = request.url?.slice(prefix.length) || '/'
    const onward = http.request({ host: '127.0.0.1', port, path, method, headers, agent })
    onward.on('response', (answered) => {
      response.writeHead(answered.statusCode ?? 502, answered.headers)
      answered.pipe(response)
      answered.on('error', () => response.destroy())
    })
    onward.on('error', () => {
      if (response.headersSent) response.destroy()
      else
        answer(response, 502, {
          message: 'An invalid response was received from the upstream server'
        })
    })
    request.pipe(onward)
  }
}

function isBelow(prefix: string, url = ''): boolean {
  return url.startsWith(prefix) && ['/', '?', undefined].includes(url[prefix.length])
}

function answer(response: http.ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
}
