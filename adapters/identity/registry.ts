import type { Environment } from '../../schemas/environment.js'
import type { Storage } from '../storage/port.js'
import type { Identity } from './port.js'

export interface IdentityOptions {
  readonly env: Environment
  readonly storage: Storage
  /** Signs the tokens of the local identity. */
  readonly secret: string
}

/** Which sign-in goes with which storage: Supabase has its own, the others have the local one. */
export async function openIdentity({ env, storage, secret }: IdentityOptions): Promise<Identity> {
  if (storage.kind === 'supabase') {
    const { openSupabaseIdentity } = await import('./supabase.js')
    return openSupabaseIdentity({
      storage,
      url: env.SUPABASE_URL ?? '',
      key: env.SUPABASE_SERVICE_ROLE_KEY ?? '',
      jwtSecret: env.SUPABASE_JWT_SECRET,
      issuer: env.SUPABASE_JWT_ISSUER
    })
  }
  const { openLocalIdentity } = await import('./local.js')
  return openLocalIdentity({ storage, secret })
}
