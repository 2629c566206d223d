/** What several callers wait for together. */
interface Flight<T> {
  readonly promise: Promise<T>
  readonly controller: AbortController
  waiting: number
}

export interface Sharing<T> {
  /**
   * Starts the work, or joins it where somebody has started it under the same key and still waits.
   * The signal ends the waiting of this caller alone; the work is aborted when nobody waits.
   */
  join(key: string, signal: AbortSignal, start: (signal: AbortSignal) => Promise<T>): Joined<T>
}

export interface Joined<T> {
  readonly promise: Promise<T>
  /** Whether somebody else had started the work. */
  readonly joined: boolean
}

/** @param left Makes what a caller's promise fails with when its signal is aborted. */
export function createSharing<T>(left: () => Error): Sharing<T> {
  const flights = new Map<string, Flight<T>>()

  function begin(key: string, start: (signal: AbortSignal) => Promise<T>): Flight<T> {
    const controller = new AbortController()
    const promise = start(controller.signal)
    const flight = { promise, controller, waiting: 0 }
    flights.set(key, flight)
    const land = () => remove(key, flight)
    promise.then(land, land)
    return flight
  }

  function remove(key: string, flight: Flight<T>): void {
    if (flights.get(key) === flight) flights.delete(key)
  }

  return {
    join(key, signal, start) {
      const found = flights.get(key)
      const flight = found ?? begin(key, start)
      flight.waiting++
      const promise = new Promise<T>((resolve, reject) => {
        const leave = () => {
          // Whoever comes now starts anew: this flight may not arrive any more.
          if (--flight.waiting === 0) {
            remove(key, flight)
            flight.controller.abort()
          }
          reject(left())
        }
        if (signal.aborted) leave()
        else signal.addEventListener('abort', leave, { once: true })
        const land = () => signal.removeEventListener('abort', leave)
        flight.promise.finally(land).then(resolve, reject)
      })
      return { promise, joined: found !== undefined }
    }
  }
}
