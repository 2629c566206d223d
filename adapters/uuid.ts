import { randomFillSync } from 'node:crypto'
import { v7 } from 'uuid'

/** Random bytes are drawn for many at a time: a draw costs more than all the rest. */
const pool = new Uint8Array(16 * 256)
let used = pool.length
let lastMs = 0
let sequence = 0

/** A UUIDv7 that sorts after those that this process made before, within a millisecond too. */
export function uuid(): string {
  const random = nextRandom()
  const now = Date.now()
  if (now > lastMs) {
    lastMs = now
    // Of the 32 bits one is left free, so that counting within a millisecond finds room.
    sequence = new DataView(random.buffer, random.byteOffset).getUint32(6) >>> 1
  } else sequence++
  return v7({ random, msecs: lastMs, seq: sequence })
}

/**
 * An instant, in milliseconds since 1970, that UUIDs made before are not after, and those made from now
 * on are, wherever the clock goes.
 */
export function passInstant(): number {
  lastMs = Math.max(lastMs, Date.now())
  return lastMs++
}

/** The instant that a UUIDv7 begins with, in milliseconds since 1970. */
export function instantOf(id: string): number {
  return Number.parseInt(id.replaceAll('-', '').slice(0, 12), 16)
}

function nextRandom(): Uint8Array {
  if (used === pool.length) {
    randomFillSync(pool)
    used = 0
  }
  used += 16
  return pool.subarray(used - 16, used)
}
