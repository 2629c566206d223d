import type { TSchema } from '@sinclair/typebox'
import { errorCodes, type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import { ApiError, refuseValue } from './problems.js'
import { decodeUtf8 } from './utf8.js'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Whether no body is taken as `{}`. */
    mayLackBody?: boolean
  }
}

/** Reads JSON bodies, and makes every other type of content an error. */
export function readJsonBodies(app: FastifyInstance): void {
  app.removeAllContentTypeParsers()
  app.addContentTypeParser(
    'application/json',
    { parseAs: 'buffer' },
    (request: FastifyRequest, body: Buffer, done) => {
      try {
        done(null, read(request, body))
      } catch (error) {
        done(error as Error)
      }
    }
  )
  app.addContentTypeParser('*', (request: FastifyRequest, _body, done) => {
    // Some clients name the type of a form where they send nothing, such as axios and `curl -d ''`.
    if (isNothing(request) && mayLackBody(request)) done(null)
    else done(new errorCodes.FST_ERR_CTP_INVALID_MEDIA_TYPE())
  })
}

/** Whether a body may be left out, as all of its fields may be. */
export function mayBeAbsent({ required = [], minProperties = 0 }: TSchema): boolean {
  return required.length === 0 && minProperties === 0
}

/** A hook for routes whose body may be left out. */
export function takeNoneAsEmpty(
  request: FastifyRequest,
  _reply: FastifyReply,
  done: () => void
): void {
  if (request.body === undefined) request.body = {}
  done()
}

function read(request: FastifyRequest, body: Buffer): unknown {
  assertUtf8Type(request.headers['content-type'])
  assertUncompressed(request.headers['content-encoding'])
  const text = decodeUtf8(body)
  if (text === null) throw new ApiError('malformed_json', 'The body is not UTF-8.')
  // Many clients send the type with every request, body or not.
  if (text === '' && mayLackBody(request)) return undefined
  const value = parse(text)
  // What would be ignored is a mistake to be told, as an unknown field is.
  if (!expectsBody(request) && !isEmptyObject(value))
    refuseValue('body', '', 'must be empty: this route takes no body')
  return value
}

/** JSON is UTF-8 (RFC 8259, 8.1): in another encoding its texts would be stored garbled. */
function assertUtf8Type(contentType = ''): void {
  const [, charset] = /;\s*charset\s*=\s*"?([^\s";]*)/i.exec(contentType) ?? []
  if (charset !== undefined && !/^utf-?8$/i.test(charset))
    throw new ApiError('unsupported_media_type', 'Send JSON in UTF-8.')
}

/** Bodies are read as they come: what is small when compressed could be of any size. */
function assertUncompressed(encoding = ''): void {
  if (encoding !== '' && !/^identity$/i.test(encoding))
    throw new ApiError('unsupported_media_type', 'Send the body uncompressed.', {
      headers: { 'accept-encoding': 'identity' }
    })
}

/** Keys such as `__proto__` become properties here like any other; `assertClean` refuses them. */
function parse(text: string): unknown {
  if (text === '')
    throw new ApiError('malformed_json', 'The body is empty although its type is JSON.')
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new ApiError('malformed_json', undefined, { cause })
  }
}

/** Whether a request has no body (RFC 9112, 6.3). */
function isNothing({ headers }: FastifyRequest): boolean {
  return Number(headers['content-length'] ?? 0) === 0 && headers['transfer-encoding'] === undefined
}

function mayLackBody(request: FastifyRequest): boolean {
  return !expectsBody(request) || request.routeOptions.config.mayLackBody === true
}

function expectsBody({ routeOptions }: FastifyRequest): boolean {
  return routeOptions.schema?.body !== undefined
}

function isEmptyObject(value: unknown): boolean {
  const isObject = typeof value === 'object' && value !== null && !Array.isArray(value)
  return isObject && Object.keys(value).length === 0
}
