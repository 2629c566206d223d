const form = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/

/** Whether this is a time as every storage returns it. */
export function isTimestamp(text: string): boolean {
  return form.test(text) && toTimestamp(text) === text
}

let last = { time: Number.NaN, text: '' }

/**
 * As `Date.toISOString`, which takes 0.4 µs: a row, its audit entry and whatever else is of the same
 * millisecond share the text.
 */
export function timestampOf(at: Date): string {
  const time = at.getTime()
  if (time !== last.time) last = { time, text: at.toISOString() }
  return last.text
}

/**
 * A time in UTC with exactly three decimals, or null where there is no such time between the years
 * 1 and 9999, the span that all storages can hold.
 */
export function toTimestamp(text: string): string | null {
  const time = new Date(text)
  if (Number.isNaN(time.getTime())) return null
  const normal = time.toISOString()
  return form.test(normal) && !normal.startsWith('0000') ? normal : null
}
