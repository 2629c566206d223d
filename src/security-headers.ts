import type { FastifyInstance } from 'fastify'
import helmet, { type HelmetOptions } from 'helmet'

/**
 * Sets helmet's headers on every answer of an app, or of a part of it. They are the same for all, so
 * helmet is asked once: @fastify/helmet asks again for each request, and that was a seventh of a
 * GET's time.
 */
export function setSecurityHeaders(app: FastifyInstance, options: HelmetOptions): void {
  const headers = headersOf(options)
  app.addHook('onRequest', (_request, reply, done) => {
    reply.headers(headers)
    done()
  })
}

function headersOf(options: HelmetOptions): Readonly<Record<string, string>> {
  const headers: Record<string, string> = {}
  const answer = {
    setHeader(name: string, value: string) {
      headers[name.toLowerCase()] = value
    },
    removeHeader() {}
  }
  helmet(options)(null as never, answer as never, (error?: unknown) => {
    if (error) throw error
  })
  return headers
}
