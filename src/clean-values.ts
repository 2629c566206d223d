import { jsonPointer } from './json-pointer.js'
import { ApiError, type Place, refuseValue } from './problems.js'

/** JSON deeper than this is refused, for bodies and for every value in them. */
export const MOST_NESTING = 32

/** Whether the percent-encoding of a URL is that of UTF-8. */
export function isDecodable(url: string): boolean {
  if (!url.includes('%')) return true
  try {
    decodeURIComponent(url)
    return true
  } catch {
    return false
  }
}

/**
 * Refuses what cannot be decoded. A query would be taken as it stands: `100%+sure` and `caf%E9` for
 * just these texts.
 *
 * @throws ApiError `bad_request`
 */
export function assertDecodable(url: string): void {
  if (isDecodable(url)) return
  const [path = ''] = url.split('?')
  throw new ApiError(
    'bad_request',
    `The ${isDecodable(path) ? 'query' : 'path'} is not valid percent-encoded UTF-8. A percent sign is %25.`
  )
}

/**
 * Refuses what the storages would keep differently or not at all: NUL (Postgres has no place for
 * it), lone surrogates (no UTF-8 form), numbers that are not finite, that a double cannot count exactly or that
 * are next to nothing, and deep nesting. Also the two keys by which programs that copy objects carelessly,
 * ours or whoever reads a definition, are made to change the prototype of all of them.
 *
 * @throws ApiError `unsafe_value`, with a JSON pointer to the value.
 */
export function assertClean(value: unknown, place: Place): void {
  const detail = violationOf(value)
  if (detail) refuse(place, '', detail)
  if (typeof value === 'object' && value !== null) assertMembers(value, place, [])
}

/** The keys above are joined to a pointer only where something is refused. */
function assertMembers(value: object, place: Place, keys: string[]): void {
  if (keys.length === MOST_NESTING)
    refuse(place, jsonPointer(keys), `is nested deeper than ${MOST_NESTING} levels`)
  for (const key of Object.keys(value)) {
    const child = (value as Record<string, unknown>)[key]
    const detail = textViolation(key) ?? keyViolation(key, child) ?? violationOf(child)
    if (detail) refuse(place, jsonPointer([...keys, key]), detail)
    if (typeof child === 'object' && child !== null) {
      keys.push(key)
      assertMembers(child, place, keys)
      keys.pop()
    }
  }
}

function violationOf(value: unknown): string | undefined {
  if (typeof value === 'string') return textViolation(value)
  return typeof value === 'number' ? numberViolation(value) : undefined
}

/** What the storages would keep differently of a text, to go after its name. */
export function textViolation(text: string): string | undefined {
  if (text.includes('\0')) return 'contains the character NUL'
  return text.isWellFormed() ? undefined : 'contains half of a surrogate pair'
}

function keyViolation(key: string, child: unknown): string | undefined {
  const isPrototype = key === 'constructor' && hasPrototype(child)
  return key === '__proto__' || isPrototype ? 'would change a prototype' : undefined
}

/** Postgres keeps every digit behind the point, where JSON has an exponent: 330 of them for the least double. */
const LEAST_NUMBER = 1e-40

function numberViolation(number: number): string | undefined {
  if (!Number.isFinite(number)) return 'is too large a number'
  if (Number.isInteger(number) && !Number.isSafeInteger(number))
    return 'is an integer beyond 2^53 - 1: send it as a string'
  if (number !== 0 && Math.abs(number) < LEAST_NUMBER)
    return 'is a number too close to zero: send it as a string'
  return undefined
}

function refuse(place: Place, pointer: string, detail: string): never {
  const shown = pointer.replaceAll('\0', '\\0').toWellFormed()
  refuseValue(place, shown, detail, 'unsafe_value')
}

function hasPrototype(value: unknown): boolean {
  return typeof value === 'object' && value !== null && Object.hasOwn(value, 'prototype')
}
