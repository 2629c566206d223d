import { isStorageError } from '../adapters/storage/errors.js'
import { type Storage, SYSTEM } from '../adapters/storage/port.js'
import { encryptionKeys } from '../schemas/encryption-keys.js'
import { DecryptionError, type Keyring } from './encryption.js'

/**
 * Proves each key against a value that was sealed with it before, and leaves such a value for the
 * next start where there is none, unless told not to. Comes before anything is written with the keys.
 *
 * @throws DecryptionError naming the key that is not the one it was.
 */
export async function verifyKeys(
  storage: Storage,
  keyring: Keyring,
  mayLeave = true
): Promise<void> {
  for (const id of keyring.ids) {
    let row = await storage.get(canaries, id)
    if (!row && mayLeave) {
      await leaveCanary(storage, keyring, id)
      row = await storage.get(canaries, id)
    }
    if (row) assertOpens(keyring, id, row.canary)
  }
}

function assertOpens(keyring: Keyring, id: string, canary: string): void {
  try {
    keyring.open({ ciphertext: canary, key_id: id }, canaryContext(id))
  } catch (cause) {
    throw new DecryptionError(
      `The encryption key ${id} is not the one that the secrets were written with. Restore it, in ENCRYPTION_KEY or the key file.`,
      { cause }
    )
  }
}

/** Whether the storage was used with keys, so that there may be secrets of theirs. */
export async function knowsKeys(storage: Storage): Promise<boolean> {
  const { rows } = await storage.list(canaries, { limit: 1 })
  return rows.length > 0
}

const canaries = { resource: encryptionKeys, tenant: SYSTEM }

function canaryContext(id: string): string[] {
  return ['canary', id]
}

async function leaveCanary(storage: Storage, keyring: Keyring, id: string): Promise<void> {
  const canary = keyring.seal('canary', canaryContext(id), id).ciphertext
  try {
    await storage.commit({
      tenant: SYSTEM,
      changes: [{ op: 'insert', resource: encryptionKeys, row: { id, canary } }]
    })
  } catch (error) {
    // Another instance started at the same moment: its canary is checked next.
    if (!isStorageError(error, 'conflict')) throw error
  }
}
