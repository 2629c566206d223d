import { createClient } from '@supabase/supabase-js'
import type { Identity } from '../../adapters/identity/port.js'
import type { Teardown } from './storages.js'

/** An identity in a project that others use: accounts that a test made are removed with it. */
export function tidyIdentity(
  t: Teardown,
  project: { readonly url: string; readonly key: string },
  identity: Identity
): Identity {
  const made = new Set<string>()
  t.teardown(async () => {
    for (const id of made) await removeAccount(project, id)
  })
  return {
    ...identity,
    createAccount(account) {
      made.add(account.id)
      return identity.createAccount(account)
    }
  }
}

/** @throws where the project does not say that the account is gone. */
export async function removeAccount(
  { url, key }: { readonly url: string; readonly key: string },
  id: string
): Promise<void> {
  const { error } = await adminOf({ url, key }).deleteUser(id)
  if (error && error.code !== 'user_not_found') throw error
}

/** The admin's view of the accounts of a project. */
export function adminOf({ url, key }: { readonly url: string; readonly key: string }) {
  return createClient(url, key, { auth: { persistSession: false, autoRefreshToken: false } }).auth
    .admin
}
