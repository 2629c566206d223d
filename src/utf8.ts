const decoder = new TextDecoder('utf-8', { fatal: true })

/** The text without a byte order mark, or null for what is not UTF-8: it would be garbled in silence. */
export function decodeUtf8(bytes: Uint8Array): string | null {
  try {
    return decoder.decode(bytes)
  } catch {
    return null
  }
}
