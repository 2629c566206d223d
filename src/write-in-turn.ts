import type { FastifyInstance } from 'fastify'

/** To write a text, Node sets aside three bytes for each character: longer ones are made bytes first. */
const MOST_TEXT_LENGTH = 4096

/**
 * Writes the answers that are ready in one turn of the event loop one after the other, at its end.
 * A reader that has nothing to do sleeps, and waking it costs more than the write: one write does so
 * for all. Where the reader is a proxy on the same machine, that is most of what an answer costs.
 *
 * Until then nothing is sent: an async handler that calls `reply.send` must return the reply.
 */
export function writeInTurn(app: FastifyInstance): void {
  let ready: (() => void)[] = []

  function writeAll(): void {
    const answers = ready
    ready = []
    for (const write of answers) write()
  }

  app.addHook('onSend', (_request, reply, payload, done) => {
    // Somebody must listen to a stream from the start.
    if (payload && typeof payload === 'object' && !Buffer.isBuffer(payload)) {
      done(null, payload)
      return
    }
    const isLong = typeof payload === 'string' && payload.length > MOST_TEXT_LENGTH
    const written = isLong ? Buffer.from(payload) : payload
    if (ready.length === 0) setImmediate(writeAll)
    ready.push(() => {
      try {
        done(null, written)
      } catch (error) {
        // Here nobody else would catch what cannot be written, such as a header with a line end.
        reply.send(error)
      }
    })
  })
}
