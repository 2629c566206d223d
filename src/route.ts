import { type Static, type TObject, type TSchema, Type } from '@sinclair/typebox'
import type { FastifyInstance, FastifyReply, FastifyRequest, HTTPMethods } from 'fastify'
import { patterns } from '../schemas/patterns.js'
import { Problem } from '../schemas/problem.js'
import { type Named, type Role, roles } from '../schemas/resource.js'
import type { AnswerHeaderName } from './answer-headers.js'
import { mayBeAbsent, takeNoneAsEmpty } from './json-body.js'
import { evenUnderPressure } from './overload.js'
import { isUser, type Principal } from './principals.js'
import { ApiError } from './problems.js'
import type { IfMatch, Store } from './store.js'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** The least role that may call the route; `anyone` need not sign in. */
    role?: Role | 'anyone'
  }
  interface FastifyRequest {
    /** Who calls, on every route that is not for anyone. */
    caller: Caller | null
  }
}

/** Whoever is signed in, and what they can reach. */
export interface Caller {
  readonly principal: Principal
  /** As it came, without `Bearer`. */
  readonly token: string
  readonly store: Store
}

/** What a route takes from a request; each part is checked before the handler sees it. */
interface Parts<Params extends TObject, Query extends TObject, Body extends TSchema> {
  params: Static<Params>
  query: Static<Query>
  body: Static<Body>
}

/** A successful answer, as documented. */
export interface Answer {
  readonly description: string
  readonly schema?: TSchema
  /** JSON unless something else is said, such as `text/event-stream`. */
  readonly mediaType?: string
  /** Beside those that every answer has. */
  readonly headers?: readonly AnswerHeaderName[]
}

export interface OperationText {
  readonly id: string
  readonly tag: string
  readonly summary: string
  readonly description?: string
}

export interface Route<
  Params extends TObject,
  Query extends TObject,
  Body extends TSchema & Named,
  Access extends Role | 'anyone'
> {
  readonly method: HTTPMethods
  readonly url: string
  readonly role: Access
  readonly operation: OperationText
  readonly params?: Params
  readonly query?: Query
  readonly body?: Body
  readonly answers: Readonly<Record<number, Answer>>
  /** Statuses of problems that the route adds to those that follow from its declaration. */
  readonly problems?: readonly number[]
  /**
   * Counts against a limit: that for sign-ins of an address, or one that the function enforces
   * before the request is read.
   */
  readonly limited?: boolean | ((request: FastifyRequest, reply: FastifyReply) => Promise<void>)
  /** Answers however much there is to do: for monitors. */
  readonly evenUnderPressure?: boolean
  /** Creates a row through `app.idempotency`, so that it can be repeated with an Idempotency-Key. */
  readonly creates?: boolean
  readonly handler: (
    request: Omit<FastifyRequest, 'params' | 'query' | 'body'> & Parts<Params, Query, Body>,
    reply: FastifyReply,
    caller: Access extends 'anyone' ? null : Caller
  ) => unknown
}

type Empty = TObject<Record<never, never>>

/** Adds a route that is documented, checked and guarded as it declares. */
export function route<
  Access extends Role | 'anyone',
  Params extends TObject = Empty,
  Query extends TObject = Empty,
  Body extends TSchema & Named = TSchema & Named
>(app: FastifyInstance, declared: Route<Params, Query, Body, Access>): void {
  const { method, url, role, operation, params, query, body, limited, handler } = declared
  const counts = limited ? rateLimitHeaders : []
  const mayLackBody = body !== undefined && mayBeAbsent(body)
  app.route({
    method,
    url,
    config: {
      role,
      mayLackBody,
      ...(limited === true ? { rateLimit: app.signInLimit } : {}),
      ...(declared.evenUnderPressure ? evenUnderPressure : {})
    },
    ...(typeof limited === 'function' ? { onRequest: limited } : {}),
    ...(mayLackBody ? { preValidation: takeNoneAsEmpty } : {}),
    // HEAD would do all that GET does: for a stream that is not to be had for nothing.
    exposeHeadRoute: !Object.values(declared.answers).some(({ mediaType }) => mediaType),
    schema: {
      operationId: operation.id,
      tags: [operation.tag],
      summary: operation.summary,
      ...describe(operation, role),
      security: role === 'anyone' ? [] : [{ bearerAuth: [] }],
      ...(params ? { params } : {}),
      ...documentHeaders(declared),
      querystring: query ?? noQuery,
      ...(body ? { body: Type.Ref(body.$id) } : {}),
      response: {
        ...documentAnswers(declared.answers, counts),
        ...documentProblems(problemsOf(declared), counts)
      }
    },
    handler: (request, reply) => handler(request as never, reply, request.caller as never)
  })
}

/** Who may call is a part of it, which OpenAPI has no place for where tokens have no scopes. */
function describe({ description }: OperationText, role: Role | 'anyone') {
  const needs = role === 'anyone' ? undefined : `Needs the role ${role}${orMore(role)}.`
  const sentences = [description, needs].filter((each) => each !== undefined)
  return sentences.length ? { description: sentences.join(' ') } : {}
}

function orMore(role: Role): string {
  return role === roles.at(-1) ? '' : ' or more'
}

/** A hook: a route that forgot to say who may call it stops the start. */
export function requireRole(route: { url: string; config?: { role?: unknown } }): void {
  if (route.config?.role !== undefined) return
  // Swagger UI adds its pages itself.
  if (!/^\/api\/docs(\/|$)/.test(route.url)) throw new Error(`${route.url} does not state its role`)
  route.config = { ...route.config, role: 'anyone' }
}

/** @throws ApiError `not_found` for an API key */
export function userIdOf({ principal }: Caller): string {
  if (!isUser(principal))
    throw new ApiError('not_found', 'An API key is not a user: GET /api/api-keys/me.')
  return principal.id
}

/** The versions that the request's `If-Match` accepts. */
export function ifMatchOf(request: Pick<FastifyRequest, 'headers'>): IfMatch {
  const header = request.headers['if-match']
  if (header === undefined) return undefined
  if (header.trim() === '*') return 'any'
  // A weak tag never matches here (RFC 9110, 13.1.1), and neither does one that is not ours.
  return new Set(
    [...header.matchAll(/(?<![/\w])"([1-9]\d*)"/g)].map(([, version]) => Number(version))
  )
}

/** Whether the caller has what it asks for: in a read, weak tags match, too (RFC 9110, 13.1.2). */
export function isKnownAlready(
  { headers }: Pick<FastifyRequest, 'headers'>,
  row: { readonly version: number }
): boolean {
  const known = headers['if-none-match']?.split(',').map((each) => each.trim().replace(/^W\//, ''))
  return known !== undefined && (known.includes(etag(row)) || known[0] === '*')
}

/** Whether the request is to change nothing that is there. Other tags than `*` are not heeded. */
export function isCreateOnly(request: Pick<FastifyRequest, 'headers'>): boolean {
  return request.headers['if-none-match']?.trim() === '*'
}

export function etag({ version }: { readonly version: number }): string {
  return `"${version}"`
}

/** A query without parameters: an unknown one is a mistake to be told, not to be dropped. */
const noQuery = Type.Object({}, { additionalProperties: false })

// No examples: Swagger UI would send them.
const ifMatchHeader = {
  'If-Match': Type.Optional(
    Type.String({
      description:
        'The ETag of the version to change, such as `"7"`: if there is another by now, the answer is 412.'
    })
  )
}

const ifNoneMatchHeader = {
  'If-None-Match': Type.Optional(
    Type.String({
      description:
        'To read: the ETag of the version that is known, such as `"7"`; while there is no other, the answer is 304 without a body. To replace: `*` creates only, and if there is one already, the answer is 412.'
    })
  )
}

const idempotencyHeader = {
  'Idempotency-Key': Type.Optional(
    Type.String({
      minLength: 1,
      maxLength: 255,
      pattern: patterns.printable,
      description:
        'Makes the request safe to repeat: it creates once, and is answered alike each time, or with 409 `already_created` where the first answer held a credential. Make a new one for each request, such as a UUID.'
    })
  )
}

function documentHeaders({ method, answers, problems, creates }: Guards): { headers?: TObject } {
  const headers = {
    ...(problems?.includes(412) ? ifMatchHeader : {}),
    ...(method === 'PUT' || answers[304] ? ifNoneMatchHeader : {}),
    ...(creates ? idempotencyHeader : {})
  }
  return Object.keys(headers).length ? { headers: Type.Object(headers) } : {}
}

interface Guards {
  readonly method: HTTPMethods
  readonly answers: Readonly<Record<number, Answer>>
  readonly role: Role | 'anyone'
  readonly params?: TObject
  readonly limited?: boolean | object
  readonly evenUnderPressure?: boolean
  readonly creates?: boolean
  readonly problems?: readonly number[]
}

function problemsOf(guards: Guards): number[] {
  const { method, role, params, limited, creates, problems = [] } = guards
  const statuses = new Set([400, 408, 431, 500, ...problems])
  if (!guards.evenUnderPressure) statuses.add(503)
  if (role !== 'anyone') statuses.add(401)
  if (role === 'editor' || role === 'admin') statuses.add(403)
  // PUT makes what is not there.
  if (params && method !== 'PUT') statuses.add(404)
  // Any of these may come with a body, wanted or not.
  if (method !== 'GET') for (const status of [413, 415]) statuses.add(status)
  if (limited) statuses.add(429)
  if (creates) for (const status of [409, 422]) statuses.add(status)
  return [...statuses].sort((a, b) => a - b)
}

/** Of a limited route, whatever it answers. */
const rateLimitHeaders = ['RateLimit-Limit', 'RateLimit-Remaining', 'RateLimit-Reset'] as const

function documentAnswers(
  answers: Readonly<Record<number, Answer>>,
  more: readonly AnswerHeaderName[]
): Record<string, unknown> {
  const documented = Object.entries(answers).map(([status, answer]) => {
    const { description, schema, mediaType = 'application/json', headers = [] } = answer
    return [
      status,
      {
        description,
        ...namedHeaders([...headers, ...more]),
        ...(schema ? { content: { [mediaType]: { schema } } } : { type: 'null' })
      }
    ]
  })
  return Object.fromEntries(documented)
}

/** What they are is said where the document names its headers. */
function namedHeaders(names: readonly AnswerHeaderName[]): object {
  return names.length ? { headers: Object.fromEntries(names.map((name) => [name, {}])) } : {}
}

const meanings: Readonly<Record<number, string>> = {
  400: 'The request is not valid.',
  401: 'Nobody is signed in, or the sign-in failed.',
  403: 'The role does not allow it.',
  404: 'There is no such thing in this tenant.',
  409: 'It contradicts what is stored.',
  408: 'The request did not arrive in time.',
  412: 'The row is not at the version of If-Match; or, for a PUT, it is there despite If-None-Match.',
  413: 'The body is too large.',
  415: 'The body is not JSON, or compressed.',
  422: 'It is well-formed but not acceptable.',
  429: 'Too many requests.',
  431: 'The request line and headers are too long.',
  500: 'A fault of ours.',
  502: 'The LLM provider failed.',
  503: 'The storage cannot be reached, or the server has too much to do or is not set up for it.',
  504: 'The LLM provider did not answer in time.'
}

function documentProblems(
  statuses: readonly number[],
  more: readonly AnswerHeaderName[]
): Record<string, unknown> {
  const schema = Type.Ref(Problem.$id)
  const documented = statuses.map((status) => [
    status,
    {
      description: meanings[status],
      ...namedHeaders(more),
      content: { 'application/problem+json': { schema } }
    }
  ])
  return Object.fromEntries(documented)
}
