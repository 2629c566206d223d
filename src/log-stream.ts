import { type DestinationStream, pino } from 'pino'

/**
 * Standard output for a log. The lines of one turn of the event loop are written together, and those
 * that come while others are being written go with the next write, so that a log that is slow to
 * take them holds up nobody. What is gathered when the process exits is written then.
 *
 * A line at a time would cost more than it seems: for each, pino's stream measures its buffer anew.
 */
export function logStream(): DestinationStream {
  const output = pino.destination({ fd: process.stdout.fd, sync: false })
  let lines = ''

  function writeLines(): void {
    const gathered = lines
    lines = ''
    if (gathered) output.write(gathered)
  }

  // Ahead of pino's own listener, which writes what waits but not the rest of what is under way.
  process.prependListener('exit', () => {
    Object.assign(output, { sync: true })
    writeLines()
  })
  return {
    write(line) {
      if (lines === '') setImmediate(writeLines)
      lines += line
    }
  }
}
