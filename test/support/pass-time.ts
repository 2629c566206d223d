import type { Test } from 'tap'

/** Sets the clocks forward for the rest of a test, from where they stand. */
export function passTime(t: Test, ms: number): void {
  moveWallClock(t, ms)
  const now = performance.now.bind(performance)
  t.intercept(performance, 'now', { value: () => now() + ms })
}

function moveWallClock(t: Test, ms: number): void {
  const { now } = Date
  t.intercept(Date, 'now', { value: () => now() + ms })
}
