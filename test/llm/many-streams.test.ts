import { once } from 'node:events'
import { createServer, type IncomingMessage, request } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setImmediate } from 'node:timers/promises'
import { createGzip } from 'node:zlib'
import t from 'tap'
import { deltasOf, exchange, llmApi, readAll, readEvents, readUntil } from '../support/llm-api.js'
import {
  beginStream,
  endStream,
  type Received,
  sendCompletion,
  sendPiece,
  startUpstream,
  untilAtRest
} from '../support/llm-upstream.js'
import type { Teardown } from '../support/storages.js'

const ask = { prompt: 'Hi' }

t.test('1,000 streams are open at once, and each gets its own answer', async (t) => {
  const upstream = await startUpstream(t, () => {})
  const api = await llmApi(t, upstream.url)
  const streams = Array.from({ length: 1000 }, (_, number) =>
    exchange(api, '/llm/stream', { prompt: `Stream ${number}` })
  )
  const responses = await Promise.all(streams.map(({ response }) => response))
  await upstream.received(999)
  const texts = responses.map(readAll)
  const echo = ({ body }: Received) => `Answer to ${body.messages[0]?.content}`
  for (const received of upstream.requests) {
    beginStream(received)
    sendPiece(received, 'An')
  }
  for (const received of upstream.requests) {
    sendPiece(received, echo(received).slice(2))
    endStream(received)
  }
  const wrong = (await Promise.all(texts)).filter((text, number) => {
    const events = readEvents(text)
    return deltasOf(events).join('') !== `Answer to Stream ${number}` || !events.at(-1)?.data.done
  })
  t.equal(wrong.length, 0)
  t.equal(upstream.connections, 1000)
})

/** Sends pieces of a long answer as fast as they are taken, and counts what it has sent. */
function sendLongAnswer(pieces: number) {
  const progress = { sent: 0 }
  return {
    progress,
    piece: 'x'.repeat(65_536),
    async answer(received: Received): Promise<void> {
      beginStream(received)
      const { response } = received
      for (; progress.sent < pieces && !response.destroyed; progress.sent++)
        if (!sendPiece(received, 'x'.repeat(65_536)))
          await Promise.race([once(response, 'drain'), once(response, 'close')])
      if (!response.destroyed) endStream(received)
    }
  }
}

t.test('a slow reader slows the provider down, and loses nothing', async (t) => {
  // Together just below what a streamed answer may have.
  const pieces = 250
  const { answer, piece, progress } = sendLongAnswer(pieces)
  const upstream = await startUpstream(t, answer)
  const api = await llmApi(t, upstream.url)
  const response = await exchange(api, '/llm/stream', ask).response
  await untilAtRest(() => progress.sent)
  t.ok(progress.sent < pieces, `${progress.sent} of ${pieces} pieces were sent unread`)
  const events = readEvents(await readAll(response))
  t.equal(deltasOf(events).join('').length, pieces * piece.length)
  t.equal(events.at(-1)?.data.content.length, pieces * piece.length)
})

t.test('a reader that takes nothing for too long counts as gone', async (t) => {
  const { answer } = sendLongAnswer(Number.POSITIVE_INFINITY)
  const upstream = await startUpstream(t, answer)
  const api = await llmApi(t, upstream.url, { env: { LLM_SILENCE_MS: '100' } })
  await exchange(api, '/llm/stream', ask).response
  await (await upstream.received(0)).aborted
  while (api.callsUnderWay() > 0) await setImmediate()
  t.pass('the request at the provider ends, and ours')
})

/**
 * A proxy as they stand in front of servers: it passes an answer on when it is complete, and
 * compressed, unless the answer says that it must not.
 */
async function startBufferingProxy(t: Teardown, port: number): Promise<number> {
  const proxy = createServer((incoming, outgoing) => {
    const { method, url, headers } = incoming
    const forwarded = request({ port, host: '127.0.0.1', method, path: url, headers })
    forwarded.on('response', async (answer: IncomingMessage) => {
      const { 'content-length': _, ...kept } = answer.headers
      const compresses = !kept['cache-control']?.includes('no-transform')
      if (compresses) kept['content-encoding'] = 'gzip'
      outgoing.writeHead(answer.statusCode as number, kept)
      const body = compresses ? answer.pipe(createGzip()) : answer
      if (kept['x-accel-buffering'] === 'no') body.pipe(outgoing)
      else outgoing.end(Buffer.concat(await body.toArray()))
    })
    incoming.pipe(forwarded)
    outgoing.once('close', () => forwarded.destroy())
    forwarded.on('error', () => outgoing.destroy())
  })
  proxy.listen(0, '127.0.0.1')
  await once(proxy, 'listening')
  t.teardown(() => {
    proxy.closeAllConnections()
    proxy.close()
  })
  return (proxy.address() as AddressInfo).port
}

t.test('it streams through a proxy that buffers and compresses', async (t) => {
  const upstream = await startUpstream(t, () => {})
  const api = await llmApi(t, upstream.url)
  const port = await startBufferingProxy(t, api.port)
  const health = await exchange({ ...api, port }, '/health').response
  t.equal(health.headers['content-encoding'], 'gzip', 'the proxy does what it does')
  health.resume()

  const response = await exchange({ ...api, port }, '/llm/stream', ask).response
  t.equal(response.headers['content-encoding'], undefined)
  const received = await upstream.received(0)
  beginStream(received)
  sendPiece(received, 'Hello')
  const text = await readUntil(response, 'Hello')
  t.notOk(received.response.writableEnded, 'the piece is here before the answer is complete')
  endStream(received)
  t.match(readEvents(text + (await readAll(response))).at(-1)?.data, { done: true })
})

t.test('a server that stops lets whole answers arrive', async (t) => {
  const upstream = await startUpstream(t, () => {})
  const api = await llmApi(t, upstream.url)
  const { response } = exchange(api, '/llm/complete', ask)
  const received = await upstream.received(0)
  const closed = api.app.close()
  sendCompletion(received, 'Just in time')
  t.match(await readAll(await response), 'Just in time')
  await closed
})
