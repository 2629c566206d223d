import type { ServerResponse } from 'node:http'
import { isGone } from '../sockets.js'
import { type Cancellation, STOPPING } from './calls.js'

/** A request that is being answered. Its signal aborts when the client goes, or the server stops. */
export interface Task extends Cancellation {
  /** Whether the client went away, so that nobody reads an answer. */
  readonly gone: () => boolean
  end(): void
}

/** The requests that are being answered, so that a server that stops can end them. */
export interface UnderWay {
  begin(response: ServerResponse): Task
  /** Aborts what has not ended by itself within the time, and what begins afterwards. */
  stop(graceMs: number): Promise<void>
}

export function createUnderWay(): UnderWay {
  const tasks = new Set<(reason: symbol) => void>()
  let lastEnded: (() => void) | undefined
  let stopped = false

  return {
    begin(response) {
      // Made when it is asked for: an answer from the cache needs none, and they are not cheap.
      let controller: AbortController | undefined
      let aborted: symbol | undefined
      const abort = (reason: symbol) => {
        aborted ??= reason
        controller?.abort(reason)
      }
      const leave = () => abort(GONE)
      tasks.add(abort)
      // Whoever went while the request was let in is not heard going.
      if (isGone(response)) leave()
      response.once('close', leave)
      if (stopped) abort(STOPPING)
      return {
        get signal() {
          controller ??= new AbortController()
          if (aborted) controller.abort(aborted)
          return controller.signal
        },
        gone: () => aborted === GONE || isGone(response),
        end() {
          response.off('close', leave)
          tasks.delete(abort)
          if (tasks.size === 0) lastEnded?.()
        }
      }
    },

    stop(graceMs) {
      return new Promise((resolve) => {
        const timer = setTimeout(() => {
          stopped = true
          for (const abort of tasks) abort(STOPPING)
          resolve()
        }, graceMs)
        lastEnded = () => {
          // It still ends what comes late, on connections that are open.
          timer.unref()
          resolve()
        }
        if (tasks.size === 0) lastEnded()
      })
    }
  }
}

const GONE = Symbol('the client is gone')
