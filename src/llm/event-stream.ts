import type { FastifyReply } from 'fastify'
import { isGone } from '../sockets.js'

export interface EventStreamOptions {
  /** Silence after which a comment says that the stream is alive, in milliseconds. */
  readonly pingMs: number
  /** How long a reader may take nothing, in milliseconds, before it counts as gone. */
  readonly stallMs: number
}

export interface EventStream {
  /**
   * Sends an event; a promise while the reader is behind, so that nobody produces more meanwhile.
   * Rejects when the reader goes while it waits; what is sent to one that is gone is dropped.
   */
  send(data: object): Promise<void> | undefined
  /** Ends the stream, with an event named `error` where something failed. Nobody waits for its reader. */
  end(problem?: object): void
}

/**
 * Answers with Server-Sent Events, the headers at once: nothing that buffers or compresses answers
 * on the way may hold them back.
 */
export function openEventStream(reply: FastifyReply, options: EventStreamOptions): EventStream {
  const { pingMs, stallMs } = options
  const { raw } = reply.hijack()
  raw.writeHead(200, {
    ...(reply.getHeaders() as Record<string, string>),
    'content-type': 'text/event-stream',
    // no-transform: not to be compressed. X-Accel-Buffering: what nginx and others go by.
    'cache-control': 'no-cache, no-transform',
    'x-accel-buffering': 'no'
  })
  raw.write(PING)
  const pinging = setInterval(() => {
    // A reader that is behind has enough to read.
    if (!raw.writableNeedDrain) raw.write(PING)
  }, pingMs)
  raw.once('close', () => clearInterval(pinging))

  function drained(): Promise<void> {
    return new Promise((resolve, reject) => {
      const settle = () => {
        clearTimeout(stalled)
        raw.off('drain', settle)
        raw.off('close', settle)
        if (isGone(raw)) reject(new Error('The reader is gone'))
        else resolve()
      }
      const stalled = setTimeout(() => raw.destroy(), stallMs)
      raw.once('close', settle)
      raw.once('drain', settle)
    })
  }

  return {
    send(data) {
      pinging.refresh()
      return isGone(raw) || raw.write(dataOf(data)) ? undefined : drained()
    },
    end(problem) {
      clearInterval(pinging)
      if (problem && !isGone(raw)) raw.write(`event: error\n${dataOf(problem)}`)
      raw.end()
    }
  }
}

function dataOf(value: object): string {
  return `data: ${JSON.stringify(value)}\n\n`
}

const PING = ': ping\n\n'
