import { hash } from 'node:crypto'
import { Type } from '@sinclair/typebox'
import { TypeCompiler } from '@sinclair/typebox/compiler'
import type { Position } from './driver.js'
import { StorageError } from './errors.js'
import { isTimestamp } from './timestamp.js'

const cursor = TypeCompiler.Compile(
  Type.Tuple([Type.String(), Type.String(), Type.String({ minLength: 1 })])
)

/** Tells lists apart: a digest of whatever makes one list differ from another. */
export function listDigest(parts: readonly unknown[]): string {
  return hash('sha256', JSON.stringify(parts), 'base64url').slice(0, 12)
}

/**
 * A place in one list and in no other. Opaque, not secret: it holds nothing that the page before
 * it did not show, and moves nothing but the place where the same list goes on.
 */
export function encodeCursor(list: string, { at, key }: Position): string {
  return Buffer.from(JSON.stringify([list, at, key])).toString('base64url')
}

/** @throws StorageError `bad_cursor` for anything that `encodeCursor` did not make for this list. */
export function decodeCursor(list: string, text: string): Position {
  const value = parse(text)
  if (!cursor.Check(value) || !isTimestamp(value[1]) || !isKey(value[2]))
    throw new StorageError('bad_cursor')
  const position = { at: value[1], key: value[2] }
  // It names another list, or is written in another way.
  if (encodeCursor(list, position) !== text) throw new StorageError('bad_cursor')
  return position
}

/** Not so strange that some storages would fail over it. */
function isKey(text: string): boolean {
  return text.isWellFormed() && !text.includes('\0')
}

function parse(text: string): unknown {
  try {
    return JSON.parse(Buffer.from(text, 'base64url').toString())
  } catch {
    return null
  }
}
