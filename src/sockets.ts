import type { ServerResponse } from 'node:http'
import { Server, type Socket } from 'node:net'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'
import type { Environment } from '../schemas/environment.js'

/** How long headers may take, and how often Node looks for requests that take too long to arrive. */
export function arrivalTimes({ HEADERS_TIMEOUT_MS, REQUEST_TIMEOUT_MS }: Environment) {
  const headersTimeout = Math.min(HEADERS_TIMEOUT_MS, REQUEST_TIMEOUT_MS)
  return {
    headersTimeout,
    requestTimeout: REQUEST_TIMEOUT_MS,
    connectionsCheckingInterval: Math.ceil(Math.min(headersTimeout / 4, 5000))
  }
}

/**
 * How long a connection may stand still in the middle of an exchange, as with a reader that takes
 * nothing: longer than any answer that is still being made, of which those of LLM providers take most.
 */
export function mostSilenceMs({ REQUEST_TIMEOUT_MS, LLM_TIMEOUT_MS, LLM_SILENCE_MS }: Environment) {
  return REQUEST_TIMEOUT_MS + Math.max(LLM_TIMEOUT_MS, LLM_SILENCE_MS)
}

/** Whether nobody is left to read an answer. */
export function isGone(response: ServerResponse): boolean {
  return response.destroyed || response.req.socket.destroyed
}

/** Requests that may wait on one connection for those before them: more than programs send without an answer. */
const MOST_WAITING = 100

/**
 * Lets the requests of a connection in one after the other. Node hands on at once all that came together,
 * and whoever sends a thousand, reads nothing and leaves would have a thousand answers made, with all the
 * rows and files that these hold. A connection on which too many wait is closed.
 */
export function takeTurns(app: FastifyInstance): void {
  const waiting = new WeakMap<Socket, number>()

  function count(socket: Socket, more: 1 | -1): number {
    const now = (waiting.get(socket) ?? 0) + more
    waiting.set(socket, now)
    return now
  }

  app.addHook('onRequest', (request, reply, done) => {
    const { raw } = reply
    // Of the answers of a connection only the first that is not sent has its socket.
    if (raw.socket) {
      done()
      return
    }
    const { socket } = request.raw
    const leave = () => void reply.hijack()
    socket.setMaxListeners(0)
    socket.once('close', leave)
    raw.once('socket', () => {
      count(socket, -1)
      socket.off('close', leave)
      // Once Node has seen to the socket.
      process.nextTick(done)
    })
    if (count(socket, 1) > MOST_WAITING) socket.destroy()
  })
}

/** Closing the app then ends each connection as soon as what is under way on it has its answer. */
export async function stopInOrder(app: FastifyInstance): Promise<void> {
  const sockets = openSockets(app)
  app.addHook('preClose', () => stopAccepting(app, sockets))
  // The hooks of plugins run after the app's own: this one after those that end what is under way.
  await app.register(async (last) => {
    last.addHook('preClose', () => answersSent(sockets))
  })
}

/** The sockets of all connections that are open, those included on which nothing has come yet. */
function openSockets({ server }: FastifyInstance): ReadonlySet<Socket> {
  const open = new Set<Socket>()
  function forget(this: Socket): void {
    open.delete(this)
  }
  server.on('connection', (socket) => {
    open.add(socket)
    socket.once('close', forget)
  })
  return open
}

/** Before anything else ends: what is under way may take its time, and nothing may join it. */
async function stopAccepting(
  { server }: FastifyInstance,
  sockets: ReadonlySet<Socket>
): Promise<void> {
  await acceptWaiting(server)
  // Not the close of HTTP, which cuts connections whose next request has come and is not read yet:
  // that is read in the next turn, and then the connections without one are closed.
  Server.prototype.close.call(server)
  await nextTurn()
  await nextTurn()
  // To Node such a connection is busy with its first request, and nothing times it out any more.
  for (const socket of sockets) if (socket.bytesRead === 0) socket.destroy()
  // A connection that has its last answer would be kept for the next request, and the server open.
  server.keepAliveTimeout = 1
}

/**
 * Each turn of the event loop accepts one connection: those that still wait would be reset, whatever
 * they have sent.
 */
async function acceptWaiting(server: Server): Promise<void> {
  const end = performance.now() + MOST_ACCEPTING_MS
  let came = true
  const note = () => {
    came = true
  }
  server.on('connection', note)
  while (came && performance.now() < end) {
    came = false
    await nextTurn()
    await nextTurn()
  }
  server.off('connection', note)
}

/** For as long as others keep coming. */
const MOST_ACCEPTING_MS = 500

/** The close of HTTP cuts answers that have ended and that their readers have not taken yet. */
async function answersSent(sockets: ReadonlySet<Socket>): Promise<void> {
  const isSending = ({ writableLength }: Socket) => writableLength > 0
  while ([...sockets].some(isSending)) await sleep(SENDING_CHECK_MS)
}

const SENDING_CHECK_MS = 20
