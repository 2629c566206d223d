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
    /** Waits for those that begin meanwhile, too. */
    async settled(): Promise<void> {
      while (running.size) await Promise.allSettled(running)
    }
  }
}
