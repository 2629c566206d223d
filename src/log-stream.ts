import { write as writeFile, writeSync } from 'node:fs'
import { type DestinationStream, pino } from 'pino'

/** Most that waits for a reader, in bytes and characters: what comes then is dropped, and counted. */
const MOST_WAITING = 16 * 1024 * 1024
/** Most that is written at a time, in bytes: what is under way when the process exits may be lost. */
const MOST_WRITTEN = 64 * 1024
/** How long the end of the process is held up by a reader that takes nothing. */
const MOST_STALL_MS = 1000
/** Before a reader that takes nothing is tried again, and what has failed, such as a full disk. */
const BUSY_MS = 100
const FAILED_MS = 1000

/**
 * Standard output for a log. The lines of one turn of the event loop are written together, and those
 * that come while others are being written go with the next write, so that a log that is slow to
 * take them holds up nobody, and one that fails stops nobody. What is gathered when the process exits is
 * written then, unless the reader takes nothing for a second: a pipe that is full and stays so must not
 * keep a server running.
 *
 * pino's own stream writes at the exit for ever where that fails, and for each line measures its buffer anew.
 */
export function logStream(): DestinationStream {
  const { fd } = process.stdout
  let waiting = ''
  let current: Buffer | undefined
  let underWay = 0
  let hasFailed = false
  let isClosed = false
  let dropped = 0

  function write(line: string): void {
    if (isClosed) return
    if (waiting.length + (current?.length ?? 0) > MOST_WAITING) {
      dropped++
      return
    }
    if (waiting === '' && !current) setImmediate(writeNext)
    waiting += line
  }

  function writeNext(): void {
    current = Buffer.from(waiting)
    waiting = ''
    writeCurrent()
  }

  function writeCurrent(): void {
    const text = current as Buffer
    // Whole lines, where they are not that long: others may come between at the exit.
    const end = text.lastIndexOf('\n', MOST_WRITTEN) + 1 || MOST_WRITTEN
    const piece = text.subarray(0, end)
    underWay = piece.length
    writeFile(fd, piece, (error, written) => {
      underWay = 0
      if (error) goOnLater(error)
      else goOn(written)
    })
  }

  function goOn(written: number): void {
    hasFailed = false
    current = current?.subarray(written)
    if (current?.length) {
      writeCurrent()
      return
    }
    current = undefined
    if (!waiting) tellDropped()
    if (waiting) writeNext()
  }

  /** Whatever is wrong may be over by then. Nobody comes back to a pipe that was closed. */
  function goOnLater(error: NodeJS.ErrnoException): void {
    if (error.code === 'EPIPE') {
      isClosed = true
      waiting = ''
      current = undefined
      return
    }
    if (!isBusy(error) && !hasFailed) {
      hasFailed = true
      process.stderr.write(`The log cannot be written and is tried again: ${error.message}\n`)
    }
    setTimeout(writeCurrent, isBusy(error) ? BUSY_MS : FAILED_MS).unref()
  }

  function tellDropped(): void {
    if (dropped === 0) return
    const log = pino({}, { write: (line) => (waiting += line) })
    log.warn(`${dropped} lines of the log were dropped: its reader was too slow`)
    dropped = 0
  }

  process.on('exit', () => {
    if (isClosed) return
    tellDropped()
    const rest = current ? [current.subarray(underWay)] : []
    writeToTheEnd(fd, Buffer.concat([...rest, Buffer.from(waiting)]))
  })
  return { write }
}

/** Writes while there is somebody who takes it. */
function writeToTheEnd(fd: number, text: Buffer): void {
  let since = performance.now()
  let rest = text
  while (rest.length > 0)
    try {
      rest = rest.subarray(writeSync(fd, rest))
      since = performance.now()
    } catch (error) {
      if (!isBusy(error) || performance.now() - since > MOST_STALL_MS) return
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, BUSY_MS)
    }
}

function isBusy(error: unknown): boolean {
  return ['EAGAIN', 'EBUSY'].includes(`${(error as NodeJS.ErrnoException).code}`)
}
