import type { Problem } from '../schemas/problem.js'

/**
 * Every code that an answer can carry. Codes are stable: a retired one is never used for something
 * else. docs/errors.md tells users what each means and what to do. A `detail` is what an answer says
 * unless there is more to say; where it depends on the request, there is an example of one.
 */
export const problems = {
  validation_failed: {
    status: 400,
    title: 'Invalid request',
    example: 'body /name: is required.'
  },
  malformed_json: {
    status: 400,
    title: 'Malformed JSON',
    detail: 'The body is not valid JSON.'
  },
  unsafe_value: {
    status: 400,
    title: 'Value cannot be stored',
    example: 'body /name: contains the character NUL.'
  },
  bad_cursor: {
    status: 400,
    title: 'Invalid cursor',
    detail:
      'The cursor was not made by this list, with this order and these filters. Start without one.'
  },
  bad_request: {
    status: 400,
    title: 'Bad request',
    example: 'The path is not valid percent-encoded UTF-8. A percent sign is %25.'
  },
  unknown_provider: {
    status: 400,
    title: 'Unknown LLM provider',
    example: 'There is no such provider. Known are: openai, local.'
  },
  unauthenticated: {
    status: 401,
    title: 'Not signed in',
    example: 'The token is invalid or no longer valid. Refresh it, or sign in again.'
  },
  invalid_credentials: {
    status: 401,
    title: 'Sign-in failed',
    detail: 'The email or the password is not right.'
  },
  invalid_refresh_token: {
    status: 401,
    title: 'Session over',
    detail: 'The session is over. Sign in again.'
  },
  forbidden: {
    status: 403,
    title: 'Not allowed',
    example: 'This needs the role editor; yours is viewer.'
  },
  registration_closed: {
    status: 403,
    title: 'Registration is closed',
    detail: 'Ask an admin of your tenant to create your user.'
  },
  not_found: {
    status: 404,
    title: 'Not found',
    example: 'There is no flow flow_onboarding.'
  },
  route_not_found: {
    status: 404,
    title: 'No such route',
    example: 'GET has nothing at this path. See /api/docs.'
  },
  already_exists: {
    status: 409,
    title: 'Already exists',
    example: 'There is already a flow with this id. Choose another.'
  },
  already_created: {
    status: 409,
    title: 'Created before',
    example:
      'An earlier request with this Idempotency-Key created 019b76da-a800-7000-8000-000000000001. Its answer held a credential and was not kept: sign in.'
  },
  reference_not_found: {
    status: 409,
    title: 'Referenced row does not exist',
    example:
      'What the flow refers to in template_id does not exist. Create it first, or name another.'
  },
  in_use: {
    status: 409,
    title: 'In use',
    example: 'Others refer to the template: change or delete them first.'
  },
  invalid_transition: {
    status: 409,
    title: 'Transition not allowed',
    example:
      'Execution 019b76da-a800-7000-8000-000000000011 is success and can no longer become running.'
  },
  last_admin: {
    status: 409,
    title: 'Last admin',
    detail: 'A tenant needs an admin: make somebody else one first.'
  },
  concurrent_change: {
    status: 409,
    title: 'Changed meanwhile',
    detail: 'Others keep changing this at the moment. Try again.'
  },
  request_timeout: {
    status: 408,
    title: 'Request too slow',
    detail: 'The request did not arrive in time. Send it again.'
  },
  precondition_failed: {
    status: 412,
    title: 'Precondition failed',
    example: 'The flow has changed since: get it again, and send its new ETag.'
  },
  body_too_large: {
    status: 413,
    title: 'Body too large',
    example: 'A body may have 1048576 bytes at most.'
  },
  prompt_too_large: {
    status: 413,
    title: 'Prompt too large',
    example:
      'The request breaks the rule max_prompt_chars: prompt and system together may have 100000 characters.'
  },
  unsupported_media_type: {
    status: 415,
    title: 'Unsupported media type',
    detail: 'Send JSON, as Content-Type application/json.'
  },
  idempotency_key_reused: {
    status: 422,
    title: 'Idempotency-Key reused',
    detail: 'This Idempotency-Key came with another request before. Make a new one for each.'
  },
  wrong_password: {
    status: 422,
    title: 'Wrong password',
    detail: 'The current password is not right, so nothing was changed.'
  },
  password_refused: {
    status: 422,
    title: 'Password refused',
    detail:
      'The password is known from leaks, or a pattern, so that guessers try it early. Choose another.'
  },
  banned_term: {
    status: 422,
    title: 'Banned term',
    detail: 'The request breaks the rule banned_terms: put it in other words.'
  },
  answer_withheld: {
    status: 422,
    title: 'Answer withheld',
    detail: 'The answer breaks the rule banned_terms, so it is not passed on. Ask in other words.'
  },
  provider_refused: {
    status: 422,
    title: 'Refused by the LLM provider',
    example: 'The provider openai refuses the request (context_length_exceeded).'
  },
  rate_limited: {
    status: 429,
    title: 'Too many requests',
    example: 'Too many tries from this IP address. Try again in 1 minute.'
  },
  provider_rate_limited: {
    status: 429,
    title: 'LLM provider busy',
    example: 'The provider openai limits our calls. Try again later.'
  },
  headers_too_large: {
    status: 431,
    title: 'Headers too large',
    example:
      'The request line and headers are longer than 16 KiB. Send long texts in a body: a long prompt by POST.'
  },
  internal_error: {
    status: 500,
    title: 'Internal error',
    detail: 'Something went wrong on our side. Report it with the request_id.'
  },
  provider_credentials: {
    status: 502,
    title: 'LLM provider refuses our key',
    example: 'The provider openai does not accept the key of this server. Tell its operator.'
  },
  provider_failed: {
    status: 502,
    title: 'LLM provider failed',
    example: 'The provider openai failed to answer. Try again.'
  },
  provider_unreachable: {
    status: 502,
    title: 'LLM provider out of reach',
    example: 'The provider openai cannot be reached. Try again.'
  },
  unavailable: {
    status: 503,
    title: 'Temporarily unavailable',
    detail: 'The storage cannot be reached; nothing was changed. Try again.'
  },
  overloaded: {
    status: 503,
    title: 'Overloaded',
    detail: 'The server has too much to do at the moment. Try again.'
  },
  outcome_unknown: {
    status: 503,
    title: 'Outcome unknown',
    detail:
      'The storage did not answer, so the change may or may not be stored. Create again only with the same Idempotency-Key; read the row before you repeat anything else.'
  },
  not_ready: {
    status: 503,
    title: 'Not ready',
    detail: 'The storage does not answer as it should.'
  },
  llm_not_configured: {
    status: 503,
    title: 'No LLM provider',
    example:
      'The provider openai is not configured. Set OPENAI_API_KEY, and OPENAI_BASE_URL for a server other than OpenAI.'
  },
  provider_timeout: {
    status: 504,
    title: 'LLM provider too slow',
    example: 'The provider openai did not answer in time. Try again.'
  }
} as const satisfies Record<string, Described & ({ detail: string } | { example: string })>

interface Described {
  readonly status: number
  readonly title: string
}

export type ProblemCode = keyof typeof problems
/** Those that say enough by themselves. */
export type PlainCode = {
  [Code in ProblemCode]: (typeof problems)[Code] extends { detail: string } ? Code : never
}[ProblemCode]

/** What an answer with a code says, or may say. */
export function sampleDetail(code: ProblemCode): string {
  const problem = problems[code]
  return 'detail' in problem ? problem.detail : problem.example
}

interface Extra {
  readonly errors?: Problem['errors']
  /** What was created, for `already_created`. */
  readonly id?: string
  readonly headers?: Readonly<Record<string, string>>
  readonly cause?: unknown
}

/** An answer that is not what the client asked for: says what was wrong and what to do. */
export class ApiError extends Error {
  override readonly name = 'ApiError'
  readonly statusCode: number

  constructor(code: PlainCode, detail?: string, extra?: Extra)
  constructor(code: ProblemCode, detail: string, extra?: Extra)
  constructor(
    readonly code: ProblemCode,
    readonly detail: string = sampleDetail(code),
    readonly extra: Extra = {}
  ) {
    super(detail, { cause: extra.cause })
    this.statusCode = problems[code].status
  }

  toProblem(requestId: string): Problem {
    const { errors, id } = this.extra
    return {
      type: `urn:problem:${this.code}`,
      title: problems[this.code].title,
      status: this.statusCode,
      detail: this.detail,
      code: this.code,
      request_id: requestId,
      ...(errors ? { errors } : {}),
      ...(id ? { id } : {})
    }
  }
}

/** The header that tells when to ask again. */
export function retryAfter(seconds: number): { readonly 'retry-after': string } {
  return { 'retry-after': String(seconds) }
}

/**
 * The problem of whoever has to wait.
 * @param what there was too much of, as it goes after "Too many".
 */
export function tooMany(what: string, waitMs: number): ApiError {
  const seconds = Math.ceil(waitMs / 1000)
  return new ApiError('rate_limited', `Too many ${what}. Try again in ${seconds} s.`, {
    headers: retryAfter(seconds)
  })
}

/** Where in a request a value is. */
export type Place = 'body' | 'query' | 'path'

/** @throws ApiError */
export function refuseValue(
  place: Place,
  pointer: string,
  detail: string,
  code?: ProblemCode
): never {
  throw refusedValue(place, pointer, detail, { code })
}

export function refusedValue(
  place: Place,
  pointer: string,
  detail: string,
  options: { readonly code?: ProblemCode | undefined; readonly cause?: unknown }
): ApiError {
  const { code = 'validation_failed', cause } = options
  const where = pointer ? `${place} ${pointer}` : place
  const errors = [{ in: place, pointer, detail }]
  return new ApiError(code, `${where}: ${detail}.`, { errors, cause })
}
