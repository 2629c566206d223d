import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

/** A TCP proxy that breaks connections where a test wants it to. */
export interface CutProxy {
  readonly port: number
  /** Where clients reach by the proxy what `url` is the address of. */
  through(url: string): string
  /** What clients sent since the last `forget`. */
  sent(): Buffer
  /** How often they sent a text since then. */
  timesSent(text: string): number
  forget(): void
  /** From now on requests arrive, but their answers do not: the connection breaks instead. */
  cutAnswers(): void
  /** From now on nothing comes back, and nothing breaks. */
  withholdAnswers(): void
  /** Passes everything again. */
  heal(): void
  /** Breaks every connection now. */
  cutAll(): void
  close(): Promise<void>
}

export async function startCutProxy(target: number): Promise<CutProxy> {
  const sockets = new Set<Socket>()
  const chunks: Buffer[] = []
  let mode: 'pass' | 'cut' | 'withhold' = 'pass'

  const server = createServer((client) => {
    const upstream = connect(target, '127.0.0.1')
    for (const socket of [client, upstream]) {
      sockets.add(socket)
      socket.setNoDelay(true)
      socket.on('error', () => {})
      socket.on('close', () => {
        sockets.delete(socket)
        client.destroy()
        upstream.destroy()
      })
    }
    client.on('data', (chunk) => {
      chunks.push(chunk)
      upstream.write(chunk)
    })
    upstream.on('data', (chunk) => {
      if (mode === 'pass') client.write(chunk)
      else if (mode === 'cut') client.destroy()
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')

  function cutAll(): void {
    for (const socket of sockets) socket.destroy()
  }

  const { port } = server.address() as AddressInfo
  const sent = () => Buffer.concat(chunks)
  return {
    port,
    through: (url) => url.replace(`:${target}/`, `:${port}/`),
    sent,
    timesSent: (text) => sent().toString('latin1').split(text).length - 1,
    forget: () => {
      chunks.length = 0
    },
    cutAnswers: () => {
      mode = 'cut'
    },
    withholdAnswers: () => {
      mode = 'withhold'
    },
    heal: () => {
      mode = 'pass'
    },
    cutAll,
    async close() {
      cutAll()
      server.close()
      await once(server, 'close')
    }
  }
}
