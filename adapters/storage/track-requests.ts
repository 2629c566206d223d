/** Remembers requests until they are answered, for a storage that is to be closed. */
export function trackRequests() {
  const running = new Set<Promise<unknown>>()
  return {
    track<T>(request: Promise<T>): Promise<T> {
      running.add(request)
      const forget = () => running.delete(request)
      request.then(forget, forget)
      return request
    },
    /** Whoever waits for it begins no others meanwhile. */
    async settled(): Promise<void> {
      await Promise.allSettled(running)
    }
  }
}
