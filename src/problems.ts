import type { Problem } from '../schemas/problem.js'

/**
 * Every code that an answer can carry. Codes are stable: a retired one is never used for something
 * else. docs/errors.md tells users what each means and what to do.
 */
export const problems = {
  validation_failed: { status: 400, title: 'Invalid request' },
  malformed_json: { status: 400, title: 'Malformed JSON' },
  unsafe_value: { status: 400, title: 'Value cannot be stored' },
  bad_cursor: { status: 400, title: 'Invalid cursor' },
  bad_request: { status: 400, title: 'Bad request' },
  unauthenticated: { status: 401, title: 'Not signed in' },
  invalid_credentials: { status: 401, title: 'Sign-in failed' },
  invalid_refresh_token: { status: 401, title: 'Session over' },
  forbidden: { status: 403, title: 'Not allowed' },
  registration_closed: { status: 403, title: 'Registration is closed' },
  not_found: { status: 404, title: 'Not found' },
  route_not_found: { status: 404, title: 'No such route' },
  already_exists: { status: 409, title: 'Already exists' },
  reference_not_found: { status: 409, title: 'Referenced row does not exist' },
  in_use: { status: 409, title: 'In use' },
  invalid_transition: { status: 409, title: 'Transition not allowed' },
  last_admin: { status: 409, title: 'Last admin' },
  concurrent_change: { status: 409, title: 'Changed meanwhile' },
  precondition_failed: { status: 412, title: 'Precondition failed' },
  body_too_large: { status: 413, title: 'Body too large' },
  unsupported_media_type: { status: 415, title: 'Unsupported media type' },
  password_refused: { status: 422, title: 'Password refused' },
  rate_limited: { status: 429, title: 'Too many requests' },
  internal_error: { status: 500, title: 'Internal error' },
  unavailable: { status: 503, title: 'Temporarily unavailable' },
  outcome_unknown: { status: 503, title: 'Outcome unknown' },
  not_ready: { status: 503, title: 'Not ready' }
} as const satisfies Record<string, { status: number; title: string }>

export type ProblemCode = keyof typeof problems

/** An answer that is not what the client asked for: says what was wrong and what to do. */
export class ApiError extends Error {
  override readonly name = 'ApiError'
  readonly statusCode: number

  constructor(
    readonly code: ProblemCode,
    readonly detail: string,
    readonly extra: {
      readonly errors?: Problem['errors']
      readonly headers?: Readonly<Record<string, string>>
      readonly cause?: unknown
    } = {}
  ) {
    super(detail, { cause: extra.cause })
    this.statusCode = problems[code].status
  }

  toProblem(requestId: string): Problem {
    const { errors } = this.extra
    return {
      type: `urn:problem:${this.code}`,
      title: problems[this.code].title,
      status: this.statusCode,
      detail: this.detail,
      code: this.code,
      request_id: requestId,
      ...(errors ? { errors } : {})
    }
  }
}
