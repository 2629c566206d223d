import { type Static, Type } from '@sinclair/typebox'
import { Choice } from './fields.js'

/**
 * Every environment variable, declared once. A description is a line of `.env.example`; a default
 * is what holds when the variable is unset or empty.
 */
export const Environment = Type.Object({
  NODE_ENV: Choice(['development', 'production', 'test'], {
    default: 'development',
    description: 'production refuses missing and well-known keys.'
  }),
  PORT: Type.Integer({
    minimum: 0,
    maximum: 65_535,
    default: 3000,
    description: 'Port to listen on.'
  }),
  HOST: Type.String({
    default: '127.0.0.1',
    description: 'Address to listen on; 0.0.0.0 for all interfaces.'
  }),
  LOG_LEVEL: Choice(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'], {
    default: 'info',
    description: 'Least severity of log lines.'
  }),
  TRUST_PROXY: Type.Optional(
    Type.String({
      description:
        'Proxies whose X-Forwarded-For is believed: addresses and CIDR ranges with commas between. None when unset.'
    })
  ),
  CORS_ORIGIN: Type.Optional(
    Type.String({
      description:
        'Origins of browser pages that may call the API, with commas between, or *. None when unset.'
    })
  ),
  BODY_LIMIT: Type.Integer({
    minimum: 1024,
    default: 1_048_576,
    description: 'Largest request body, in bytes.'
  }),

  STORAGE: Type.Optional(
    Choice(['memory', 'sqlite', 'postgres', 'supabase'], {
      description:
        'Which storage to use. Unset: the first whose variables below are set, else memory.'
    })
  ),
  SQLITE_PATH: Type.Optional(
    Type.String({ description: 'Database file; ./data/app.db with STORAGE=sqlite.' })
  ),
  DATABASE_URL: Type.Optional(
    Type.String({
      pattern: '^postgres(ql)?://',
      description: 'Postgres to use, as a postgres:// URL.'
    })
  ),
  SUPABASE_URL: Type.Optional(
    Type.String({
      pattern: '^https?://',
      description: 'Supabase project to use; needs the key below.'
    })
  ),
  SUPABASE_SERVICE_ROLE_KEY: Type.Optional(
    Type.String({ description: 'Service-role or secret key of the project. For servers only.' })
  ),

  AUTH_SECRET: Type.Optional(
    Type.String({
      minLength: 32,
      description:
        'Signs tokens of the local sign-in: at least 32 characters. Required in production.'
    })
  ),
  ENCRYPTION_KEY: Type.Optional(
    Type.String({
      description:
        'Encrypts secrets: 32 bytes in base64, or id:key,id:key with the writing key first. Required in production.'
    })
  ),
  REGISTRATION: Choice(['open', 'closed'], {
    default: 'open',
    description: 'Whether POST /api/auth/register makes new tenants.'
  }),
  AUTH_RATE_LIMIT_PER_MINUTE: Type.Integer({
    minimum: 1,
    default: 30,
    description: 'Sign-ins, registrations and refreshes for each address.'
  }),
  REDIS_URL: Type.Optional(
    Type.String({
      pattern: '^rediss?://',
      description:
        'Redis that instances share their rate limits through. Each counts alone when unset.'
    })
  )
})
export type Environment = Static<typeof Environment>
