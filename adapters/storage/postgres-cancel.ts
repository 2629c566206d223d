import type { Socket } from 'node:net'
import pg from 'pg'

/** What the types of pg leave out of a client. */
interface ServerProcess {
  readonly host: string
  readonly port: number
  readonly ssl: pg.ConnectionConfig['ssl']
  readonly processID: number
  readonly secretKey: number
}

/** And of a connection. */
interface CancelConnection extends pg.Connection {
  readonly stream: Socket
  connect(portOrPath: number | string, host?: string): void
  requestSsl(): void
  cancel(processID: number, secretKey: number): void
}

const MOST_MS = 5000

/**
 * Asks the server, over a connection for just that, to end what a client has it do. Given up by the client
 * alone it would go on, beside what takes its place, until the server has no connection left for anybody.
 * Nobody waits for it: the server does not answer, and the statement may have ended by itself.
 */
export function cancelStatement(client: pg.PoolClient): void {
  const { host, port, ssl, processID, secretKey } = client as unknown as ServerProcess
  const connection = new pg.Connection({ ssl }) as CancelConnection
  const { stream } = connection
  function send(): void {
    connection.cancel(processID, secretKey)
    connection.stream.end()
  }
  connection.on('error', () => stream.destroy())
  connection.once('connect', () => (ssl ? connection.requestSsl() : send()))
  connection.once('sslconnect', send)
  stream.setTimeout(MOST_MS, () => stream.destroy()).unref()
  if (host.startsWith('/')) connection.connect(`${host}/.s.PGSQL.${port}`)
  else connection.connect(port, host)
}
