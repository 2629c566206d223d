import type { ServerResponse } from 'node:http'
import { STOPPING } from './calls.js'

/** A request that is being answered. */
export interface Task {
  /** Aborts when the client goes away, and when the server stops. */
  readonly signal: AbortSignal
  /** Whether the client went away, so that nobody reads an answer. */
  readonly gone: () => boolean
  end(): void
}

/** The requests that are being answered, so that a server that stops can end them. */
export interface UnderWay {
  begin(response: ServerResponse): Task
  /** Aborts what has not ended by itself within the time. */
  stop(graceMs: number): Promise<void>
}

export function createUnderWay(): UnderWay {
  const tasks = new Set<AbortController>()
  let lastEnded: (() => void) | undefined

  return {
    begin(response) {
      const controller = new AbortController()
      const leave = () => controller.abort()
      tasks.add(controller)
      response.once('close', leave)
      return {
        signal: controller.signal,
        gone: () => controller.signal.aborted && controller.signal.reason !== STOPPING,
        end() {
          response.off('close', leave)
          tasks.delete(controller)
          if (tasks.size === 0) lastEnded?.()
        }
      }
    },

    async stop(graceMs) {
      if (tasks.size === 0) return
      if (graceMs > 0) await ended(graceMs)
      for (const controller of tasks) controller.abort(STOPPING)
    }
  }

  function ended(graceMs: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, graceMs)
      lastEnded = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }
}
