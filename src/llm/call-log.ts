import { mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { escapeRegExp } from '../escape-regexp.js'

export interface CallLogOptions {
  readonly path: string
  /** Size at which a new file is begun. */
  readonly maxBytes: number
  /** Age at which a new file is begun. */
  readonly maxAgeMs: number
  /** Most files, the one being written included. */
  readonly maxFiles: number
  readonly warn: (error: unknown, message: string) => void
  readonly now?: () => number
}

export interface CallLog {
  /** Never fails and never waits: what cannot be written is lost, and said so once. */
  write(line: object): void
  /** Writes what has come so far. */
  flush(): Promise<void>
  close(): Promise<void>
}

/** How long lines are gathered, so that a busy server writes blocks and not lines. */
const GATHER_MS = 100
/** What may wait while the disk is slow, in characters. */
const MOST_WAITING = 4 * 1024 * 1024

/**
 * A file of JSON lines that begins anew by size and age. The file keeps its name; older ones have
 * the time of their end in theirs.
 */
export function openCallLog(options: CallLogOptions): CallLog {
  const { path, maxBytes, maxAgeMs, maxFiles, warn, now = Date.now } = options
  let waiting = ''
  let timer: NodeJS.Timeout | undefined
  let writing: Promise<void> = Promise.resolve()
  let failing = false
  /** Whether what failed may have left half a line. */
  let torn = false
  /** Of the current file; unknown until the first write, and after a failure. */
  let file: { size: number; begun: number } | undefined

  async function look(): Promise<{ size: number; begun: number }> {
    await mkdir(dirname(path), { recursive: true })
    const found = await stat(path).catch(() => undefined)
    // Where the file system does not know when a file was made, it says 0.
    const begun = found && (found.birthtimeMs || found.mtimeMs)
    return { size: found?.isFile() ? found.size : 0, begun: begun ?? now() }
  }

  function isFull({ size, begun }: { size: number; begun: number }): boolean {
    return size > 0 && (size >= maxBytes || now() - begun >= maxAgeMs)
  }

  async function append(text: string): Promise<void> {
    file ??= await look()
    // Another process, or somebody who tidies up, may have been here first.
    if (isFull(file)) file = await look()
    if (isFull(file)) {
      await rename(path, await freeName(path, now()))
      await removeOldest(path, maxFiles - 1)
      file = { size: 0, begun: now() }
    }
    const whole = torn && file.size > 0 ? `\n${text}` : text
    const handle = await open(path, 'a')
    try {
      await handle.appendFile(whole)
      file.size += Buffer.byteLength(whole)
    } finally {
      await handle.close()
    }
  }

  async function writeWaiting(): Promise<void> {
    if (waiting === '') return
    const text = waiting
    waiting = ''
    try {
      await append(text)
      failing = false
      torn = false
    } catch (error) {
      file = undefined
      torn = true
      lose(error)
    }
  }

  function lose(error: unknown): void {
    if (!failing) warn(error, 'LLM calls cannot be logged; lines are lost until they can')
    failing = true
  }

  function flush(): Promise<void> {
    clearTimeout(timer)
    timer = undefined
    writing = writing.then(writeWaiting)
    return writing
  }

  return {
    write(line) {
      if (waiting.length > MOST_WAITING) {
        lose(new Error('The disk does not keep up'))
        return
      }
      waiting += `${JSON.stringify(line)}\n`
      timer ??= setTimeout(flush, GATHER_MS).unref()
    },
    flush,
    close: flush
  }
}

/** The name for a file that ends now: `llm.log.2026-01-31T09-30-00-000Z`, numbered where taken. */
async function freeName(path: string, at: number): Promise<string> {
  const time = new Date(at).toISOString().replace(/[:.]/g, '-')
  for (let number = 0; ; number++) {
    const name = `${path}.${time}${number ? `-${number}` : ''}`
    if ((await stat(name).catch(() => undefined)) === undefined) return name
  }
}

async function removeOldest(path: string, kept: number): Promise<void> {
  const folder = dirname(path)
  const ended = new RegExp(
    `^${escapeRegExp(basename(path))}\\.\\d{4}-\\d\\d-\\d\\dT[\\d-]+Z(-\\d+)?$`
  )
  const names = (await readdir(folder)).filter((name) => ended.test(name)).sort()
  for (const name of names.slice(0, Math.max(0, names.length - kept)))
    await rm(join(folder, name), { force: true })
}
