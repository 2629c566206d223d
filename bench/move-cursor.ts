import { encodeCursor } from '../adapters/storage/cursor.js'
import type { Position } from '../adapters/storage/driver.js'

/** A cursor of the same list at another place, without walking there. */
export function moveCursor(cursor: string, to: Position): string {
  const [list] = JSON.parse(Buffer.from(cursor, 'base64url').toString()) as [string]
  return encodeCursor(list, to)
}
