import { lookup } from 'node:dns/promises'
import { ConfigurationError } from './configuration.js'

type Variable = 'PORT' | 'METRICS_PORT'

const noSuchHost = (_name: Variable, _port: number, host: string) =>
  `HOST ${host} is not an address of this machine.`

const reasons: Readonly<Record<string, (name: Variable, port: number, host: string) => string>> = {
  EADDRINUSE: (name, port) => `${name} ${port} is in use. Stop what uses it, or set another.`,
  EACCES: (name, port) => `This user may not listen on ${name} ${port}. Set one above 1023.`,
  EADDRNOTAVAIL: noSuchHost,
  EINVAL: noSuchHost,
  EAI_AGAIN: (_name, _port, host) => `HOST ${host} cannot be looked up: DNS does not answer.`,
  ENOTFOUND: noSuchHost
}

/**
 * Has a server listen at one address of HOST: `localhost` may be two, and to Fastify so two servers, where
 * those who look after connections know of one.
 * @throws ConfigurationError where the address cannot be had.
 */
export async function listenAt(
  name: Variable,
  port: number,
  host: string,
  listen: (port: number, address: string) => Promise<unknown>
): Promise<void> {
  try {
    const { address } = await lookup(host, { order: 'ipv4first' })
    await listen(port, address)
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    const reason = code && reasons[code]
    throw reason ? new ConfigurationError(reason(name, port, host), { cause }) : cause
  }
}
