import { type Static, Type } from '@sinclair/typebox'
import { Choice } from './fields.js'
import { LEAST_PASSWORD_LENGTH, MOST_PASSWORD_LENGTH } from './users.js'

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
  METRICS_PORT: Type.Optional(
    Type.Integer({
      minimum: 0,
      maximum: 65_535,
      description:
        'Port of its own, on the same HOST, where Prometheus reads /metrics without signing in. None when unset.'
    })
  ),
  TRUST_PROXY: Type.Optional(
    Type.String({
      description:
        'Proxies whose X-Forwarded-For is believed: addresses and CIDR ranges with commas between. None when unset.'
    })
  ),
  CORS_ORIGIN: Type.Optional(
    Type.String({
      description:
        'Origins of browser pages that may call the API, such as https://app.example.com, with commas between, or *. None when unset.'
    })
  ),
  BODY_LIMIT: Type.Integer({
    minimum: 1024,
    default: 1_048_576,
    description: 'Largest request body, in bytes.'
  }),
  HEADERS_TIMEOUT_MS: Type.Integer({
    minimum: 1,
    maximum: 3_600_000,
    default: 20_000,
    description: 'How long the headers of a request may take to arrive.'
  }),
  REQUEST_TIMEOUT_MS: Type.Integer({
    minimum: 1,
    maximum: 3_600_000,
    default: 60_000,
    description: 'How long a whole request may take to arrive, headers and body.'
  }),
  KEEP_ALIVE_TIMEOUT_MS: Type.Integer({
    minimum: 1,
    maximum: 3_600_000,
    default: 72_000,
    description:
      'How long a connection may wait for its next request: longer than a proxy in front keeps it.'
  }),
  OVERLOAD_EVENT_LOOP_DELAY_MS: Type.Integer({
    minimum: 0,
    default: 1000,
    description:
      'Mean delay of the event loop within a second beyond which requests are answered 503; 0 for none.'
  }),
  OVERLOAD_HEAP_BYTES: Type.Optional(
    Type.Integer({
      minimum: 0,
      description:
        'JavaScript heap beyond which requests are answered 503; 0 for none. Unset: nine tenths of what Node.js allows.'
    })
  ),
  OVERLOAD_RSS_BYTES: Type.Integer({
    minimum: 0,
    default: 0,
    description:
      'Memory of the process beyond which requests are answered 503, such as nine tenths of what a container may use; 0 for none.'
  }),
  SHUTDOWN_DELAY_MS: Type.Optional(
    Type.Integer({
      minimum: 0,
      maximum: 600_000,
      description:
        'After SIGTERM, how long /api/ready answers 503 before nothing is accepted any more, so that a load balancer looks away. Unset: 5000 in production, else 0.'
    })
  ),
  SHUTDOWN_TIMEOUT_MS: Type.Integer({
    minimum: 0,
    maximum: 3_600_000,
    default: 10_000,
    description:
      'How long requests and streams may go on after that. Whatever kills the process has to wait for both, and 7 seconds more.'
  }),

  IDEMPOTENCY_TTL_HOURS: Type.Integer({
    minimum: 1,
    maximum: 8760,
    default: 24,
    description: 'How long a POST that is repeated with its Idempotency-Key is answered as before.'
  }),

  RETENTION_AUDIT_DAYS: Type.Optional(
    Type.Integer({
      minimum: 1,
      maximum: 36_500,
      description: 'Age at which audit entries are deleted. Unset: never.'
    })
  ),
  RETENTION_EXECUTIONS_DAYS: Type.Optional(
    Type.Integer({
      minimum: 1,
      maximum: 36_500,
      description: 'How long after they finished executions are deleted. Unset: never.'
    })
  ),
  RETENTION_LLM_USAGE_DAYS: Type.Optional(
    Type.Integer({
      minimum: 1,
      maximum: 36_500,
      description: 'How long after their day totals of LLM calls are deleted. Unset: never.'
    })
  ),
  RETENTION_INTERVAL_SECONDS: Type.Integer({
    minimum: 1,
    maximum: 86_400,
    default: 3600,
    description:
      'How often one of the instances deletes these, and expired sessions and idempotency records.'
  }),
  RETENTION_BATCH_SIZE: Type.Integer({
    minimum: 1,
    maximum: 1000,
    default: 100,
    description: 'Most rows that it deletes at a time.'
  }),

  STORAGE: Type.Optional(
    Choice(['memory', 'sqlite', 'postgres', 'supabase'], {
      description:
        'Which storage to use. Unset: Supabase, Postgres or SQLite, the first whose variables are set, else memory.'
    })
  ),
  SQLITE_PATH: Type.Optional(
    Type.String({
      // A database of that name lives in memory, and beside it there is no place for keys. SQLite's driver
      // passes over spaces around a name, and the keys would be beside another.
      pattern: '^(?!:memory:$)\\S(.*\\S)?$',
      description: 'Database file; ./data/app.db with STORAGE=sqlite. In memory is STORAGE=memory.'
    })
  ),
  DATABASE_URL: Type.Optional(
    Type.String({
      pattern: '^postgres(ql)?://',
      description:
        'Postgres to use, as a postgres:// URL; over a network with ?sslmode=verify-full.'
    })
  ),
  DATABASE_POOL_SIZE: Type.Integer({
    minimum: 1,
    maximum: 1000,
    default: 10,
    description: 'Most connections to that Postgres.'
  }),
  DATABASE_PREPARED_STATEMENTS: Type.Boolean({
    default: true,
    description:
      'Whether statements are prepared there; false behind a pooler in transaction mode that does not keep them.'
  }),
  SUPABASE_DB_URL: Type.Optional(
    Type.String({
      pattern: '^postgres(ql)?://',
      description: "A Supabase project's Postgres, for npm run migrate where DATABASE_URL is unset."
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
  SUPABASE_JWT_SECRET: Type.Optional(
    Type.String({
      minLength: 32,
      description:
        'Legacy JWT secret of a project that signs with it. Without, each of its tokens is checked by the Auth server.'
    })
  ),
  SUPABASE_JWT_ISSUER: Type.Optional(
    Type.String({
      pattern: '^https?://',
      description: 'Who makes the tokens of the project, where it is not SUPABASE_URL/auth/v1.'
    })
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
  DEMO_PASSWORD: Type.Optional(
    Type.String({
      minLength: LEAST_PASSWORD_LENGTH,
      maxLength: MOST_PASSWORD_LENGTH,
      description: 'Password that npm run seed gives the demo admin; admin123 when unset.'
    })
  ),
  ALLOW_DEMO_PASSWORD: Type.Boolean({
    default: false,
    description: 'Lets npm run seed use the known demo password in production.'
  }),
  AUTH_RATE_LIMIT_PER_MINUTE: Type.Integer({
    minimum: 1,
    default: 30,
    description:
      'Sign-ins, registrations and refreshes for each IP address, each counted by itself.'
  }),
  REDIS_URL: Type.Optional(
    Type.String({
      pattern: '^rediss?://',
      description:
        'Redis that instances share their rate limits and counts of failed sign-ins through. Each counts alone when unset.'
    })
  ),

  OPENAI_API_KEY: Type.Optional(
    Type.String({
      description:
        'Key of the provider `openai`; any text for a server that needs none. The LLM routes answer 503 without one.'
    })
  ),
  OPENAI_BASE_URL: Type.String({
    pattern: '^https?://',
    default: 'https://api.openai.com/v1',
    description: 'OpenAI, or any server that is compatible with it, such as Ollama or vLLM.'
  }),
  OPENAI_DEFAULT_MODEL: Type.String({
    default: 'gpt-4o-mini',
    description: 'Model of calls that name none.'
  }),
  OPENAI_SYSTEM_PROMPT: Type.Optional(
    Type.String({ description: 'Instructions for calls that bring none, to every provider.' })
  ),
  LLM_PROVIDERS: Type.Optional(
    Type.String({
      description:
        'More providers, as JSON: [{"name":"local","url":"http://127.0.0.1:11434/v1","key":"none","model":"llama3.2"}].'
    })
  ),
  LLM_RATE_LIMIT_PER_MINUTE: Type.Integer({
    minimum: 1,
    default: 60,
    description: 'LLM calls for each IP address, and for each user.'
  }),
  LLM_MAX_PROMPT_CHARS: Type.Integer({
    minimum: 1,
    default: 100_000,
    description: 'Longest prompt and system prompt together, in characters.'
  }),
  LLM_BANNED_TERMS: Type.Optional(
    Type.String({
      description: 'Words and phrases that no prompt may contain, with commas between.'
    })
  ),
  LLM_BANNED_TERMS_OUTPUT: Type.Boolean({
    default: false,
    description: 'Whether answers may not contain them either. Delays the pieces of a stream.'
  }),
  LLM_CACHE_ENABLED: Type.Boolean({
    default: false,
    description: 'Whether complete answers a request that it has answered before from memory.'
  }),
  LLM_CACHE_MAX_ENTRIES: Type.Integer({
    minimum: 1,
    // The lists for them, of 40 bytes an entry, are made at the start.
    maximum: 10_000_000,
    default: 10_000,
    description: 'Most answers in the cache.'
  }),
  LLM_CACHE_MAX_BYTES: Type.Integer({
    minimum: 1024,
    default: 67_108_864,
    description: 'Most memory for the cache, in bytes.'
  }),
  LLM_CACHE_TTL_SECONDS: Type.Integer({
    minimum: 1,
    default: 3600,
    description: 'Life of an answer in the cache.'
  }),
  LLM_TIMEOUT_MS: Type.Integer({
    minimum: 1,
    maximum: 3_600_000,
    default: 120_000,
    description: 'Longest wait for a whole answer, or for the first piece of a stream.'
  }),
  LLM_SILENCE_MS: Type.Integer({
    minimum: 1,
    maximum: 3_600_000,
    default: 60_000,
    description: 'Longest wait between two pieces of a stream, and for a reader that takes none.'
  }),
  LLM_PING_MS: Type.Integer({
    minimum: 1,
    maximum: 3_600_000,
    default: 15_000,
    description: 'Silence after which a stream says that it is alive.'
  }),
  LLM_LOG_PATH: Type.String({
    default: 'logs/llm.log',
    description: 'Where each LLM call is logged: a line of JSON, without prompt and answer.'
  }),
  LLM_LOG_MAX_BYTES: Type.Integer({
    minimum: 1024,
    default: 10_485_760,
    description: 'Size at which the log starts a new file.'
  }),
  LLM_LOG_MAX_AGE_HOURS: Type.Integer({
    minimum: 1,
    default: 24,
    description: 'Age at which the log starts a new file.'
  }),
  LLM_LOG_MAX_FILES: Type.Integer({
    minimum: 1,
    default: 14,
    description: 'Most files of the log, the one being written included.'
  })
})
export type Environment = Static<typeof Environment>

/** What LLM_PROVIDERS holds. */
export const LlmProviders = Type.Array(
  Type.Object(
    {
      name: Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$' }),
      // Where its OpenAI-compatible API starts, such as http://127.0.0.1:11434/v1.
      url: Type.String({ pattern: '^https?://' }),
      key: Type.String({ minLength: 1 }),
      // That of calls that name none.
      model: Type.String({ minLength: 1 })
    },
    { additionalProperties: false }
  )
)
export type LlmProviders = Static<typeof LlmProviders>
