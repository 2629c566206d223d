import { hash, randomInt } from 'node:crypto'
import { crc32 } from 'node:zlib'

/**
 * The text of an API key: `wfa_`, 32 random characters (190 bits), and a checksum of 6. Secret
 * scanners find it by the form and confirm it by the checksum, and so does this server before it
 * reads from the storage.
 */
const FORM = /^wfa_[0-9A-Za-z]{38}$/
const PREFIX = 'wfa_'
const ALPHABET = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
const RANDOM_LENGTH = 32
const CHECKSUM_LENGTH = 6
/** Characters that may be shown: of 190 random bits, 154 stay unknown. */
const SHOWN_LENGTH = PREFIX.length + 6

export function newApiKeyText(): string {
  const random = Array.from({ length: RANDOM_LENGTH }, () => ALPHABET[randomInt(ALPHABET.length)])
  const start = PREFIX + random.join('')
  return start + checksumOf(start)
}

/** Whether a bearer token is meant to be an API key. */
export function looksLikeApiKey(token: string): boolean {
  return token.startsWith(PREFIX)
}

/** Whether it can be one that was made here. */
export function isApiKeyText(token: string): boolean {
  return (
    FORM.test(token) &&
    token.slice(-CHECKSUM_LENGTH) === checksumOf(token.slice(0, -CHECKSUM_LENGTH))
  )
}

/** What a row keeps of a key: enough to recognise it, and not to use it. */
export function keptOf(text: string): { readonly prefix: string; readonly hash: string } {
  return { prefix: text.slice(0, SHOWN_LENGTH), hash: hashOf(text) }
}

export function hashOf(text: string): string {
  return hash('sha256', text, 'hex')
}

/** CRC-32 in base 62, the most significant digit first. */
function checksumOf(text: string): string {
  let rest = crc32(text)
  let digits = ''
  for (let i = 0; i < CHECKSUM_LENGTH; i++) {
    digits = ALPHABET.charAt(rest % ALPHABET.length) + digits
    rest = Math.floor(rest / ALPHABET.length)
  }
  return digits
}
