import { once } from 'node:events'
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import type { Environment } from '../schemas/environment.js'
import { listenAt } from './listen-at.js'
import type { EndedRequest } from './request-log.js'
import { version } from './version.js'

const PATH = '/metrics'
/** In seconds: from a row out of memory to the answer of a language model. Each is a series of each route. */
const buckets = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60]

/** Prometheus and somebody who looks, so that others take no files from the API. */
const MOST_CONNECTIONS = 20
/** For a reader that takes nothing of what it asked for. */
const MOST_SILENCE_MS = 10_000
/** All that is sent to it are a few headers. */
const limits = { headersTimeout: 5000, requestTimeout: 5000, connectionsCheckingInterval: 1000 }

export interface Metrics {
  /** Where Prometheus finds them. */
  readonly address: AddressInfo
  observe(request: EndedRequest): void
  close(): void
}

/**
 * Serves what Prometheus reads, on a port of its own: who may reach it is for a network to say, and the
 * API's own port has nothing that is for operators only.
 * @throws ConfigurationError where the port cannot be had.
 */
export async function serveMetrics(
  { HOST }: Pick<Environment, 'HOST'>,
  port: number,
  storage: string
): Promise<Metrics> {
  const register = new Registry()
  collectDefaultMetrics({ register })
  new Gauge({
    name: 'workflow_api_info',
    help: 'Always 1: the labels say what runs.',
    labelNames: ['version', 'storage'],
    registers: [register]
  }).set({ version, storage }, 1)
  const durations = new Histogram({
    name: 'http_request_duration_seconds',
    help: 'From the headers of a request to the end of its answer; 499 where the client left before.',
    labelNames: ['method', 'route', 'status_code'],
    buckets,
    registers: [register]
  })

  const server = createServer(limits, answerFrom(register))
  server.maxConnections = MOST_CONNECTIONS
  server.setTimeout(MOST_SILENCE_MS)
  await listenAt('METRICS_PORT', port, HOST, async (port, address) => {
    await once(server.listen(port, address), 'listening')
  })
  // Nothing that goes wrong here is a reason to stop the API.
  server.on('error', () => {})
  return {
    address: server.address() as AddressInfo,
    observe({ method, route = '', status, seconds }) {
      durations.observe({ method, route, status_code: status }, seconds)
    },
    close() {
      server.close()
      server.closeAllConnections()
    }
  }
}

function answerFrom(register: Registry): RequestListener {
  return async ({ url = '' }, response) => {
    if (url.split('?', 1)[0] !== PATH) {
      response.writeHead(404).end(`Metrics are at ${PATH}.\n`)
      return
    }
    const text = await register.metrics().catch(() => undefined)
    if (text === undefined) response.writeHead(500).end()
    else response.writeHead(200, { 'content-type': register.contentType }).end(text)
  }
}
