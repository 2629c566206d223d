import type { Environment } from '../../schemas/environment.js'
import type { Storage } from '../storage/port.js'
import type { StorageEntry } from '../storage/registry.js'
import type { Identity } from './port.js'

export interface IdentityOptions {
  readonly kind: StorageEntry['identity']
  readonly env: Environment
  readonly storage: Storage
  /** Signs the tokens of the local identity. */
  readonly secret: string
}

/** Opens a sign-in. Its packages are loaded then and not before. */
export async function openIdentity(options: IdentityOptions): Promise<Identity> {
  const { kind, env, storage, secret } = options
  if (kind === 'supabase') {
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
