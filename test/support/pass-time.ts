import type { Test } from 'tap'

/** Sets the clock forward for the rest of a test, from where it stands. */
export function passTime(t: Test, ms: number): void {
  const { now } = Date
  t.intercept(Date, 'now', { value: () => now() + ms })
}
