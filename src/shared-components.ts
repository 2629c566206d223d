import { STATUS_CODES } from 'node:http'
import type { TObject, TSchema } from '@sinclair/typebox'
import type { Problem } from '../schemas/problem.js'
import { pascalCase } from '../schemas/resource.js'
import { answerHeaders } from './answer-headers.js'
import { mayBeAbsent } from './json-body.js'
import { type ProblemCode, problems, sampleDetail } from './problems.js'

/** The parts of an OpenAPI document that are rewritten here. */
interface Document {
  readonly paths?: Readonly<Record<string, Readonly<Record<string, Operation>> | undefined>>
  components?: Record<string, unknown> & { readonly schemas?: Schemas }
}
type Schemas = Readonly<Record<string, TSchema>>
interface Operation {
  parameters?: readonly (Parameter | Reference)[]
  readonly requestBody?: RequestBody
  responses: Record<string, Response | Reference>
}
interface Parameter {
  readonly name: string
}
interface RequestBody {
  required?: boolean
  readonly content: Readonly<Record<string, { readonly schema: Reference }>>
}
interface Response {
  readonly description: string
  readonly headers?: Readonly<Record<string, unknown>>
  readonly content?: Readonly<Record<string, object>>
}
interface Reference {
  readonly $ref: string
}

/** Parameters that are the same wherever they occur. */
const sharedParameters = [
  'limit',
  'cursor',
  'order',
  'count',
  'If-Match',
  'If-None-Match',
  'Idempotency-Key'
]

/**
 * Names what many operations have in common: headers, the parameters of every list, and a problem
 * for each status. Schemas have names of their own; these the plugin would write out each time.
 */
export function shareComponents(document: Document): void {
  const parameters: Record<string, unknown> = {}
  const responses: Record<string, unknown> = {}
  for (const operation of operationsOf(document)) {
    if (operation.parameters) operation.parameters = operation.parameters.map(shareParameter)
    if (operation.requestBody) markOptional(operation.requestBody, document)
    for (const [status, response] of Object.entries(operation.responses))
      operation.responses[status] = shareResponse(Number(status), response as Response)
  }
  const schemas = withCodes(document.components?.schemas)
  document.components = {
    ...document.components,
    schemas,
    headers: answerHeaders,
    parameters,
    responses
  }

  function shareParameter(parameter: Parameter | Reference): Parameter | Reference {
    const { name } = parameter as Parameter
    if (!sharedParameters.includes(name)) return parameter
    const component = pascalCase(name)
    parameters[component] = parameter
    return { $ref: `#/components/parameters/${component}` }
  }

  function shareResponse(status: number, response: Response): Response | Reference {
    if (status < 400) return withHeaders(response, ['X-Request-Id'])
    // Those of limited routes have headers of their own.
    const component = `${response.headers ? 'Limited' : ''}${pascalCase(STATUS_CODES[status] as string)}`
    responses[component] ??= withExamples(
      withHeaders(response, ['X-Request-Id', ...headersOfProblem(status)]),
      status
    )
    return { $ref: `#/components/responses/${component}` }
  }
}

/** Those that there are, for readers and linters: an `enum` would have strict clients break at a new one. */
function withCodes(schemas: Schemas = {}): Schemas {
  const { properties, ...problem } = schemas.Problem as TObject
  const code = { ...(properties.code as TSchema), 'x-extensible-enum': Object.keys(problems) }
  return { ...schemas, Problem: { ...problem, properties: { ...properties, code } } as TObject }
}

/** The plugin has it that every body is required. */
function markOptional(body: RequestBody, { components }: Document): void {
  const name = body.content['application/json']?.schema.$ref.split('/').at(-1) as string
  body.required = !mayBeAbsent(components?.schemas?.[name] as TSchema)
}

function operationsOf({ paths = {} }: Document): Operation[] {
  return Object.values(paths).flatMap((item) => Object.values(item ?? {}))
}

function withHeaders(response: Response, more: readonly string[]): Response {
  const names = [...Object.keys(response.headers ?? {}), ...more]
  const headers = names.map((name) => [name, { $ref: `#/components/headers/${name}` }])
  return { ...response, headers: Object.fromEntries(headers) }
}

function headersOfProblem(status: number): string[] {
  if (status === 401) return ['WWW-Authenticate']
  if (status === 415) return ['Accept-Encoding']
  return status === 429 || status === 503 ? ['Retry-After'] : []
}

/** Each code that an answer of the status can carry, so that the document lists them all. */
function withExamples(response: Response, status: number): Response {
  const codes = (Object.keys(problems) as ProblemCode[]).filter(
    (code) => problems[code].status === status
  )
  const examples = Object.fromEntries(codes.map((code) => [code, exampleOf(code)]))
  const content = Object.entries(response.content ?? {}).map(([type, media]) => [
    type,
    { ...media, examples }
  ])
  return { ...response, content: Object.fromEntries(content) }
}

function exampleOf(code: ProblemCode): { summary: string; value: Problem } {
  const { status, title } = problems[code]
  const detail = sampleDetail(code)
  const request_id = answerHeaders['X-Request-Id'].example
  const value = { type: `urn:problem:${code}`, title, status, detail, code, request_id }
  return { summary: title, value: { ...value, ...examplesOfMore[code] } }
}

/** What problems of one code alone have. */
const examplesOfMore: Partial<Record<ProblemCode, Partial<Problem>>> = {
  validation_failed: { errors: [{ in: 'body', pointer: '/name', detail: 'is required' }] },
  already_created: { id: '019b76da-a800-7000-8000-000000000001' }
}
