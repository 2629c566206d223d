import { createCipheriv, createDecipheriv, createHmac, hkdfSync, randomBytes } from 'node:crypto'

/** A key of 32 bytes, and the name that is stored beside what it encrypted. */
export interface EncryptionKey {
  readonly id: string
  readonly key: Buffer
}

export interface Sealed {
  /** Base64: nonce (12 bytes), ciphertext, tag (16 bytes). */
  readonly ciphertext: string
  readonly key_id: string
}

/** Encrypts under the first key and decrypts under any. */
export interface Keyring {
  readonly ids: readonly string[]
  /** @param context what the value belongs to: it can be opened there and nowhere else. */
  seal(value: string, context: readonly string[], keyId?: string): Sealed
  /** @throws DecryptionError */
  open(sealed: Sealed, context: readonly string[]): string
  /**
   * Digests that tell values apart, and tell nothing about them without the keys: one under
   * each key, the writing key's first. 64 hexadecimal digits.
   */
  digests(value: string): readonly [string, ...string[]]
}

export class DecryptionError extends Error {
  override readonly name = 'DecryptionError'
}

const NONCE_BYTES = 12
const TAG_BYTES = 16

/** AES-256-GCM with a fresh random nonce for each value. */
export function createKeyring(keys: readonly [EncryptionKey, ...EncryptionKey[]]): Keyring {
  const byId = new Map(keys.map(({ id, key }) => [id, key]))
  // One key is for one purpose.
  const digestKeys = keys.map(({ key }) => Buffer.from(hkdfSync('sha256', key, '', 'digest', 32)))

  function keyOf(id: string): Buffer {
    const key = byId.get(id)
    if (!key)
      throw new DecryptionError(`No encryption key is named ${id}. Put it into ENCRYPTION_KEY.`)
    return key
  }

  return {
    ids: [...byId.keys()],

    seal(value, context, keyId = keys[0].id) {
      const nonce = randomBytes(NONCE_BYTES)
      const cipher = createCipheriv('aes-256-gcm', keyOf(keyId), nonce)
      cipher.setAAD(associatedData(context))
      const parts = [nonce, cipher.update(value, 'utf8'), cipher.final(), cipher.getAuthTag()]
      return { ciphertext: Buffer.concat(parts).toString('base64'), key_id: keyId }
    },

    open({ ciphertext, key_id }, context) {
      const key = keyOf(key_id)
      const bytes = Buffer.from(ciphertext, 'base64')
      try {
        const decipher = createDecipheriv('aes-256-gcm', key, bytes.subarray(0, NONCE_BYTES))
        decipher.setAAD(associatedData(context))
        decipher.setAuthTag(bytes.subarray(-TAG_BYTES))
        const text = decipher.update(bytes.subarray(NONCE_BYTES, -TAG_BYTES))
        return Buffer.concat([text, decipher.final()]).toString('utf8')
      } catch (cause) {
        throw new DecryptionError(`The value does not open with the key ${key_id}.`, { cause })
      }
    },

    digests(value) {
      const digests = digestKeys.map((key) => createHmac('sha256', key).update(value).digest('hex'))
      return digests as [string, ...string[]]
    }
  }
}

/** As JSON, so that no two contexts run together into the same bytes. */
function associatedData(context: readonly string[]): Buffer {
  return Buffer.from(JSON.stringify(context))
}
