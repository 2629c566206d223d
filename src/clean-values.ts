import { ApiError } from './problems.js'

/** JSON deeper than this is refused, for bodies and for every value in them. */
export const MOST_NESTING = 32

/**
 * Refuses what the storages would keep differently or not at all: NUL (Postgres has no place for
 * it), lone surrogates (no UTF-8 form), numbers that are not finite or that a double cannot count
 * exactly, and deep nesting. Also the two keys by which programs that copy objects carelessly,
 * ours or whoever reads a definition, are made to change the prototype of all of them.
 *
 * @throws ApiError `unsafe_value`, with a JSON pointer to the value.
 */
export function assertClean(value: unknown, place: 'body' | 'query' | 'path'): void {
  walk(value, '', 0)

  function walk(value: unknown, pointer: string, depth: number): void {
    if (typeof value === 'string') assertText(value, pointer)
    else if (typeof value === 'number') assertNumber(value, pointer)
    else if (typeof value === 'object' && value !== null) {
      if (depth === MOST_NESTING) refuse(pointer, `is nested deeper than ${MOST_NESTING} levels`)
      for (const [key, child] of Object.entries(value)) {
        const below = `${pointer}/${key.replaceAll('~', '~0').replaceAll('/', '~1')}`
        assertText(key, below)
        assertKey(key, child, below)
        walk(child, below, depth + 1)
      }
    }
  }

  function assertText(text: string, pointer: string): void {
    if (text.includes('\0')) refuse(pointer, 'contains the character NUL')
    if (!text.isWellFormed()) refuse(pointer, 'contains half of a surrogate pair')
  }

  function assertKey(key: string, child: unknown, pointer: string): void {
    const isPrototype = key === 'constructor' && hasPrototype(child)
    if (key === '__proto__' || isPrototype) refuse(pointer, 'would change a prototype')
  }

  function assertNumber(number: number, pointer: string): void {
    if (!Number.isFinite(number)) refuse(pointer, 'is too large a number')
    if (Number.isInteger(number) && !Number.isSafeInteger(number))
      refuse(pointer, 'is an integer beyond 2^53: send it as a string')
  }

  function refuse(pointer: string, detail: string): never {
    throw new ApiError(
      'unsafe_value',
      `${place} ${pointer}: ${detail}.`.replace(/\0/g, '\\0').toWellFormed(),
      {
        errors: [{ in: place, pointer: pointer.replace(/\0/g, '\\0').toWellFormed(), detail }]
      }
    )
  }
}

function hasPrototype(value: unknown): boolean {
  return typeof value === 'object' && value !== null && Object.hasOwn(value, 'prototype')
}
