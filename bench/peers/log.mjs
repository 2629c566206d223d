import { pino } from 'pino'

/** Where peers log to: standard output, which the bench makes a file, without waiting for it. */
export const output = pino.destination({ fd: 1, sync: false })

/** Tells the bench, on the other stream, where the server is and what else it must know. */
export function announce(server) {
  process.stderr.write(`${JSON.stringify(server)}\n`)
}
