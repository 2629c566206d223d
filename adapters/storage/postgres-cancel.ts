import { isIP, type Socket } from 'node:net'
import pg from 'pg'

/** What the types of pg leave out of a client. */
interface ServerProcess {
  readonly host: string
  readonly port: number
  readonly ssl: pg.ConnectionConfig['ssl']
  readonly processID: number
  readonly secretKey: number
  readonly connection: { readonly stream: Socket }
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
 * Nobody waits for it: the server says nothing, and closes this connection. PgBouncer 1.18 crashes where
 * this side is the first to close it.
 */
export function cancelStatement(client: pg.PoolClient): void {
  const theirs = client as unknown as ServerProcess
  const { host, port, ssl, processID, secretKey } = theirs
  const connection = new pg.Connection({ ssl: withName(ssl, host) }) as CancelConnection
  const { stream } = connection
  const send = () => connection.cancel(processID, secretKey)
  connection.on('error', () => stream.destroy())
  connection.once('connect', () => (ssl ? connection.requestSsl() : send()))
  connection.once('sslconnect', send)
  stream.setTimeout(MOST_MS, () => stream.destroy()).unref()
  if (host.startsWith('/')) connection.connect(`${host}/.s.PGSQL.${port}`)
  // Not the name, which may lead to another server, or another pooler, by now.
  else connection.connect(port, theirs.connection.stream.remoteAddress ?? host)
}

/** The name that a certificate has to have, which pg takes from the host that it connects to. */
function withName(ssl: ServerProcess['ssl'], host: string): ServerProcess['ssl'] {
  if (!ssl || isIP(host)) return ssl
  return { ...(ssl === true ? {} : ssl), servername: host } as ServerProcess['ssl']
}
