import { isIP } from 'node:net'
import type { FastifyRequest } from 'fastify'
import { ApiError } from './problems.js'

/**
 * The address that limits count. Some proxies write the port behind it, which would make every connection
 * another client; what is no address at all counts as the proxy's own.
 *
 * @throws ApiError where the client has reset the connection: it has no address any more.
 */
export function clientAddress({ ip, socket }: Pick<FastifyRequest, 'ip' | 'socket'>): string {
  const [, inBrackets, beforePort] =
    /^(?:\[(.+)\](?::\d+)?|(\d+(?:\.\d+){3}):\d+)$/.exec(ip ?? '') ?? []
  const address = [inBrackets, beforePort, ip, socket.remoteAddress].find((each) =>
    isIP(each ?? '')
  )
  if (address === undefined) throw new ApiError('bad_request', 'The client has gone.')
  return address
}
