import { type DestinationStream, pino } from 'pino'

/**
 * Standard output for a log. The lines of one turn of the event loop are written together, and those
 * that come while others are being written go with the next write, so that a log that is slow to
 * take them holds up nobody. At the end of the process what is left is written.
 *
 * A line at a time would cost more than it seems: for each, pino's stream measures all that waits.
 */
export function logStream(): DestinationStream {
  const output = pino.destination({ fd: process.stdout.fd, sync: false })
  let lines = ''

  function writeLines(): void {
    if (lines === '') return
    output.write(lines)
    lines = ''
  }

  // Ahead of pino's own listener, which writes what it has by then.
  process.prependListener('exit', writeLines)
  return {
    write(line) {
      if (lines === '') setImmediate(writeLines)
      lines += line
    }
  }
}
