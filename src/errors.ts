import { randomUUID } from 'node:crypto'
import { maxHeaderSize, type ServerResponse, STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import type {
  ConnectionError,
  FastifyError,
  FastifyReply,
  FastifyRequest,
  FastifySchemaValidationError
} from 'fastify'
import { AccountError, type AccountErrorCode } from '../adapters/identity/port.js'
import { StorageError, type StorageErrorCode } from '../adapters/storage/errors.js'
import type { Problem } from '../schemas/problem.js'
import { resources } from '../schemas/registry.js'
import { ApiError, type PlainCode, type ProblemCode, refusedValue, retryAfter } from './problems.js'
import { noteRefusal } from './request-log.js'
import { describeViolation, isAboutNull, pointerOf } from './validator.js'
import { withArticle, wordsOf } from './words.js'

/** More would help nobody, and a body can hold thousands of unknown fields. */
const MOST_ERRORS = 20

/** Answers with the problem that an error amounts to, and logs what is our own fault. */
export function sendError(error: unknown, request: FastifyRequest, reply: FastifyReply) {
  const problem = toApiError(error, request.routeOptions.bodyLimit)
  // Overload says for itself what there is to say, and how often.
  if (problem.statusCode >= 500 && problem.code !== 'overloaded')
    request.log.error({ err: error }, problem.detail)
  return sendProblem(problem, request, reply)
}

export function sendProblem(
  error: ApiError,
  request: Pick<FastifyRequest, 'id'>,
  reply: FastifyReply
) {
  // Whom overload refuses comes here before the hook that sets this for all others.
  reply.header('x-request-id', request.id)
  // Every 401 must say how to sign in (RFC 9110, 15.5.2).
  if (error.statusCode === 401) reply.header('www-authenticate', 'Bearer')
  return reply
    .code(error.statusCode)
    .headers({ ...error.extra.headers })
    .type('application/problem+json')
    .send(error.toProblem(request.id))
}

/** @param mostBytes that the body of the request might have. */
export function toApiError(error: unknown, mostBytes?: number): ApiError {
  if (error instanceof ApiError) return error
  if (error instanceof StorageError) return fromStorage(error)
  if (error instanceof AccountError) return fromAccount(error)
  return fromFastify(error as Partial<FastifyError>, mostBytes)
}

type Told = {
  /** Whether nothing was done, so that the same may be tried again in a moment. */
  readonly retry?: true
} & (
  | { readonly code: PlainCode; readonly detail?: never }
  | { readonly code: ProblemCode; readonly detail: (error: StorageError, one: string) => string }
)

const told: Readonly<Record<StorageErrorCode, Told>> = {
  conflict: {
    code: 'already_exists',
    detail: ({ fields }, one) =>
      `There is already ${withArticle(one)} with this ${fields.join(' and ')}. Choose another.`
  },
  stale: {
    code: 'precondition_failed',
    detail: (_, one) => `The ${one} has changed since: get it again, and send its new ETag.`
  },
  not_found: {
    code: 'not_found',
    detail: ({ key }, one) => `There is no ${[one, key].filter(Boolean).join(' ')}.`
  },
  reference_missing: {
    code: 'reference_not_found',
    detail: ({ fields }, one) =>
      `What the ${one} refers to in ${fields.join(' and ')} does not exist. Create it first, or name another.`
  },
  reference_in_use: {
    code: 'in_use',
    detail: (_, one) => `Others refer to the ${one}: change or delete them first.`
  },
  bad_cursor: { code: 'bad_cursor' },
  unavailable: { code: 'unavailable', retry: true },
  outcome_unknown: { code: 'outcome_unknown' },
  closed: { code: 'unavailable', retry: true, detail: () => 'The server is stopping. Try again.' },
  schema_outdated: {
    code: 'unavailable',
    detail: () =>
      'The database schema does not fit this release. The operator has to run its migrations, or a newer release.'
  },
  driver_missing: {
    code: 'unavailable',
    detail: () => 'The database driver is not installed. The operator has to install it.'
  }
}

function fromStorage(error: StorageError): ApiError {
  const { retry, ...known } = told[error.code]
  const extra = { cause: error, ...(retry ? { headers: retryAfter(1) } : {}) }
  if (!known.detail) return new ApiError(known.code, undefined, extra)
  const resource = resources.find(({ name }) => name === error.resource)
  return new ApiError(known.code, known.detail(error, resource ? wordsOf(resource) : 'row'), extra)
}

const fromAccountCode: Record<Exclude<AccountErrorCode, 'email_refused'>, ProblemCode> = {
  email_taken: 'already_exists',
  email_busy: 'concurrent_change',
  password_refused: 'password_refused'
}

function fromAccount(error: AccountError): ApiError {
  const { code, message } = error
  if (code !== 'email_refused')
    return new ApiError(fromAccountCode[code], message, { cause: error })
  const detail = `is not accepted by the sign-in service (${message}): send another`
  return refusedValue('body', '/email', detail, { cause: error })
}

function fromFastify(error: Partial<FastifyError>, mostBytes?: number): ApiError {
  if (error.validation) return fromValidation(error.validation, error.validationContext)
  // What Node says of a client that leaves in the middle of its body.
  if (error.code === 'ECONNRESET' && error.statusCode === 400)
    return new ApiError('bad_request', 'The client has gone.')
  switch (error.code) {
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return new ApiError('unsupported_media_type')
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return new ApiError('body_too_large', `A body may have ${mostBytes} bytes at most.`)
    case 'FST_ERR_CTP_INVALID_CONTENT_LENGTH':
      return new ApiError('bad_request', 'The body is not as long as Content-Length says.')
  }
  if (error.code?.startsWith('FST_') && isClientError(error.statusCode))
    return new ApiError('bad_request', 'The request is not one that this server understands.')
  return new ApiError('internal_error', undefined, { cause: error })
}

function isClientError(status = 500): boolean {
  return status >= 400 && status < 500
}

/** Answers what was no HTTP, or did not end, for which there is neither a request nor a reply. */
export function answerUnreadable(error: ConnectionError, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable || isAnswering(socket)) {
    socket.destroy()
    return
  }
  const problem = toUnreadable(error.code)
  // Who ends in the middle of a request has left, and may yet be there to read.
  if (error.code !== 'HPE_INVALID_EOF_STATE') noteRefusal(socket, problem.statusCode)
  const requestId = randomUUID()
  const body = JSON.stringify(problem.toProblem(requestId))
  socket.end(
    `HTTP/1.1 ${problem.statusCode} ${STATUS_CODES[problem.statusCode]}\r\n` +
      'Content-Type: application/problem+json\r\n' +
      `Content-Length: ${Buffer.byteLength(body)}\r\n` +
      `X-Request-Id: ${requestId}\r\nConnection: close\r\n\r\n${body}`
  )
}

function toUnreadable(code: string): ApiError {
  switch (code) {
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return new ApiError('request_timeout')
    case 'HPE_HEADER_OVERFLOW':
      return new ApiError(
        'headers_too_large',
        `The request line and headers are longer than ${maxHeaderSize / 1024} KiB. Send long texts in a body: a long prompt by POST.`
      )
  }
  return new ApiError('bad_request', 'This is not a valid HTTP request.')
}

/** Whether an answer has begun, in the middle of which another would be taken for a part of it. */
function isAnswering(socket: Socket): boolean {
  // As Node itself looks before it answers: there is no public name for it.
  const { _httpMessage: answer } = socket as { _httpMessage?: ServerResponse | null }
  return answer?.headersSent === true
}

const places = { body: 'body', querystring: 'query', params: 'path', headers: 'headers' } as const

function fromValidation(
  found: readonly FastifySchemaValidationError[],
  context: keyof typeof places = 'body'
): ApiError {
  const errors = found
    .filter((each) => !isAboutNull(each))
    .slice(0, MOST_ERRORS)
    .map((each): NonNullable<Problem['errors']>[number] => ({
      in: places[context],
      pointer: pointerOf(each),
      detail: describeViolation(each)
    }))
  const [first] = errors
  const where = first?.pointer ? `${first.in} ${first.pointer}` : first?.in
  return new ApiError('validation_failed', `${where}: ${first?.detail}.`, { errors })
}
