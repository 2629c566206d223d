import { type DestinationStream, pino } from 'pino'

/** Most bytes that wait for a reader: what comes then is dropped, and counted. */
const MOST_WAITING = 16 * 1024 * 1024
/** How long the end of the process is held up by a reader that takes nothing. */
const MOST_STALL_MS = 1000

/**
 * Standard output for a log. The lines of one turn of the event loop are written together, and those
 * that come while others are being written go with the next write, so that a log that is slow to
 * take them holds up nobody. What is gathered when the process exits is written then, unless the
 * reader takes nothing for a second: a pipe that is full and stays so must not keep a server running.
 *
 * A line at a time would cost more than it seems: for each, pino's stream measures its buffer anew.
 */
export function logStream(): DestinationStream {
  let patience: ((unwritten: number) => boolean) | undefined
  const output = pino.destination({
    fd: process.stdout.fd,
    sync: false,
    maxLength: MOST_WAITING,
    retryEAGAIN: (_error, writing, waiting) => patience?.(writing + waiting) ?? true
  })
  let lines = ''
  let dropped = 0

  function writeLines(): void {
    const gathered = lines
    lines = ''
    if (gathered) output.write(gathered)
  }

  function tellDropped(): void {
    if (dropped === 0) return
    const count = dropped
    dropped = 0
    pino(output).warn(`${count} lines of the log were dropped: its reader was too slow`)
  }

  output.on('drop', (text: string) => {
    dropped += text.split('\n').length - 1
  })
  output.on('drain', tellDropped)

  // Ahead of pino's own listener, which writes what waits but not the rest of what is under way.
  process.prependListener('exit', () => {
    patience = patienceWith(MOST_STALL_MS)
    Object.assign(output, { sync: true })
    // Nobody is left to be told.
    output.on('error', () => {})
    try {
      writeLines()
      output.flushSync()
      tellDropped()
    } catch {
      // The reader took nothing.
    }
    output.destroy()
  })
  return {
    write(line) {
      if (lines === '') setImmediate(writeLines)
      lines += line
    }
  }
}

/** Tells whether to try again: while there is less and less to write, or has been until lately. */
function patienceWith(mostMs: number): (unwritten: number) => boolean {
  let least = Number.POSITIVE_INFINITY
  let since = 0
  return (unwritten) => {
    if (unwritten < least) since = performance.now()
    least = Math.min(least, unwritten)
    return performance.now() - since < mostMs
  }
}
