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

/** The stamps of a commit are one time: what was read last is not read again. */
let lastTime = { text: '', normal: '' }

/** @throws RangeError for a time that not all storages can hold */
export function normalTime(text: string): string {
  if (text === lastTime.text) return lastTime.normal
  const normal = toTimestamp(text)
  if (normal === null) throw new RangeError(`${text} is not a time between the years 1 and 9999`)
  lastTime = { text, normal }
  return normal
}
