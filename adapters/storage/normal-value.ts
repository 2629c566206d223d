import type { Column } from '../../schemas/resource.js'
import { normalTime } from './timestamp.js'

/** A value of a column as every storage keeps it. */
export function normalValue(column: Column, value: unknown): unknown {
  if (value === undefined || value === null) return null
  if (column.kind === 'timestamp') return normalTime(value as string)
  if (column.kind === 'json') return frozenCopy(value)
  return column.lowerCase ? (value as string).toLowerCase() : value
}

/** A copy that nobody can change: the caller keeps the original, and drivers may hand this out. */
function frozenCopy(value: unknown): unknown {
  // JSON is written without the sign of zero, and so only memory would keep it.
  if (value === 0) return 0
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) {
    const copies: unknown[] = []
    for (const inner of value) copies.push(frozenCopy(inner))
    return Object.freeze(copies)
  }
  const copy: Record<string, unknown> = {}
  for (const key of Object.keys(value)) {
    const inner = frozenCopy((value as Record<string, unknown>)[key])
    // An assignment would take this one for the prototype.
    if (key === '__proto__') Object.defineProperty(copy, key, { value: inner, enumerable: true })
    else copy[key] = inner
  }
  return Object.freeze(copy)
}
