/**
 * Compares strings as their UTF-8 bytes would, which is the order of code points and of
 * `COLLATE "C"`. JavaScript's `<` goes by UTF-16 units, where the surrogates of an emoji (D800 to
 * DFFF) come before U+E000 to U+FFFF.
 */
export function compareBytes(a: string, b: string): number {
  const length = Math.min(a.length, b.length)
  for (let i = 0; i < length; i++) {
    const x = a.charCodeAt(i)
    const y = b.charCodeAt(i)
    if (x !== y) return rank(x) - rank(y)
  }
  return a.length - b.length
}

/** Moves the surrogates behind the rest of the 16-bit range. */
function rank(unit: number): number {
  return unit < 0xd800 ? unit : unit < 0xe000 ? unit + 0x10000 : unit
}
