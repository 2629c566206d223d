import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'

/** Sends a message to a process that takes one at a time, and returns what it answers. */
export async function ask<T>(child: ChildProcess, message: object): Promise<T> {
  const done = new AbortController()
  const { signal } = done
  try {
    const answered = once(child, 'message', { signal }).then(([{ answer }]) => answer)
    const ended = once(child, 'exit', { signal }).then(() => {
      throw new Error(`${child.spawnargs.join(' ')} ended before it answered`)
    })
    child.send(message)
    return await Promise.race([answered, ended])
  } finally {
    done.abort()
  }
}
