import type { Test } from 'tap'

export interface Clocks {
  /** Sets both clocks forward. */
  pass(ms: number): void
  /** Puts back the clock that people set; the one that measures goes on. */
  putBack(ms: number): void
}

/** The clocks of the process, which go as before until the test moves them. */
export function movableClocks(t: Test): Clocks {
  const { now } = Date
  const measured = performance.now.bind(performance)
  let passed = 0
  let back = 0
  t.intercept(Date, 'now', { value: () => now() + passed - back })
  t.intercept(performance, 'now', { value: () => measured() + passed })
  return {
    pass(ms) {
      passed += ms
    },
    putBack(ms) {
      back += ms
    }
  }
}

/** Sets the clocks forward for the rest of a test, from where they stand. */
export function passTime(t: Test, ms: number): void {
  movableClocks(t).pass(ms)
}
