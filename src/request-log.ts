import type { Socket } from 'node:net'
import type { FastifyInstance, FastifyReply } from 'fastify'

/** The request that a connection is about, until its answer is sent: `takeTurns` has it that there is one. */
const underWay = Symbol('under way')
/** The status of what was answered in its place, since its rest could not be read. */
const refused = Symbol('refused')
type Connection = Socket & { [underWay]?: FastifyReply | undefined; [refused]?: number }

/** What nginx calls it. */
const CLIENT_LEFT = 499

export interface EndedRequest {
  readonly method: string
  /** With names of parameters, not their values; none where no route was found. */
  readonly route: string | undefined
  /** 499 where the client left before the answer. */
  readonly status: number
  readonly seconds: number
}

/** For whoever answers past the request. */
export function noteRefusal(socket: Socket, status: number): void {
  const connection: Connection = socket
  // What comes after a request that is whole is no part of it.
  if (connection[underWay]?.request.raw.complete === false) connection[refused] = status
}

/** A line for each request, once it has ended, and a call of whoever else is to know. */
export function logRequests(app: FastifyInstance, observe?: (request: EndedRequest) => void): void {
  function say(connection: Connection, status: number): void {
    const reply = connection[underWay]
    if (!reply) return
    connection[underWay] = undefined
    const { log, method, routeOptions, ip } = reply.request
    const { elapsedTime } = reply
    // Whole microseconds: V8 forgets the texts of hundredths, and makes each anew in the old generation.
    const duration_us = Math.round(elapsedTime * 1000)
    // The route and not the address: queries and ids are nobody's business in a log.
    const route = routeOptions.url
    log.info({ method, route, status, duration_us, ip }, 'request')
    observe?.({ method, route, status, seconds: elapsedTime / 1000 })
  }

  app.server.on('connection', (connection: Connection) => {
    // Node forgets it with the connection, unless it was asked before.
    void connection.remoteAddress
    connection.once('close', () => say(connection, connection[refused] ?? CLIENT_LEFT))
  })
  app.addHook('onRequest', ({ raw }, reply, done) => {
    const connection: Connection = raw.socket
    connection[underWay] = reply
    done()
  })
  app.addHook('onResponse', ({ raw }, { statusCode }, done) => {
    say(raw.socket, statusCode)
    done()
  })
}
