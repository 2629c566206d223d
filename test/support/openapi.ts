import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js'
import addFormats from 'ajv-formats'
import type { FastifyInstance, LightMyRequestResponse } from 'fastify'

/** The parts of an OpenAPI 3.1 document that tests look at. */
export interface Document {
  readonly openapi: string
  readonly info: { readonly description: string }
  readonly tags: readonly { readonly name: string; readonly description?: string }[]
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>
  readonly components: Readonly<Record<string, Readonly<Record<string, unknown>>>>
}
export interface Operation {
  readonly operationId: string
  readonly tags: readonly string[]
  readonly summary: string
  readonly description?: string
  readonly security: readonly Readonly<Record<string, readonly string[]>>[]
  readonly parameters?: readonly (Parameter | Reference)[]
  readonly requestBody?: { readonly required: boolean; readonly content: Content }
  readonly responses: Readonly<Record<string, Response | Reference>>
}
export interface Parameter {
  readonly name: string
  readonly in: 'path' | 'query' | 'header'
  readonly required?: boolean
  readonly description?: string
  readonly schema: Readonly<Record<string, unknown>>
  readonly example?: unknown
}
export interface Response {
  readonly description: string
  readonly headers?: Readonly<Record<string, Header | Reference>>
  readonly content?: Content
}
export interface Header {
  readonly required?: boolean
  readonly description?: string
  readonly schema: Readonly<Record<string, unknown>>
}
export type Content = Readonly<Record<string, MediaType>>
export interface MediaType {
  readonly schema: Readonly<Record<string, unknown>>
  readonly examples?: Readonly<Record<string, { readonly value: unknown }>>
}
export interface Reference {
  readonly $ref: string
}

export interface DocumentedOperation {
  readonly method: string
  /** With its parameters in braces. */
  readonly path: string
  /** JSON pointer into the document. */
  readonly pointer: string
  readonly operation: Operation
}

/** The served OpenAPI document, as something to hold answers against. */
export interface ApiDocument {
  readonly document: Document
  readonly operations: readonly DocumentedOperation[]
  /** The operation that a request reaches; undefined where the document has none. */
  operationOf(method: string, url: string): DocumentedOperation | undefined
  /** What a reference points at; anything else is returned as it is. */
  resolve<T>(value: T | Reference): T
  /** What is wrong with a value by the schema at a pointer of the document; null where nothing is. */
  violation(pointer: string, value: unknown): string | null
  /**
   * Holds an answer against what the document says of its operation and status.
   *
   * @throws Error that says what is undocumented or not as documented.
   */
  checkResponse(method: string, url: string, response: LightMyRequestResponse): void
}

const documents = new WeakMap<FastifyInstance, Promise<ApiDocument>>()
/** Apps of the same routes serve the same text, whose schemas are compiled once. */
const byText = new Map<string, ApiDocument>()

/** The document that an app serves. */
export function documentOf(app: FastifyInstance): Promise<ApiDocument> {
  const known = documents.get(app) ?? load(app)
  documents.set(app, known)
  return known
}

async function load(app: FastifyInstance): Promise<ApiDocument> {
  const { statusCode, body } = await app.inject('/api/openapi.json')
  if (statusCode !== 200) throw new Error(`No document: ${statusCode} ${body}`)
  const known = byText.get(body) ?? readDocument(JSON.parse(body))
  byText.set(body, known)
  return known
}

function readDocument(document: Document): ApiDocument {
  const ajv = new Ajv2020({ strict: false, allErrors: true, validateSchema: false })
  addFormats.default(ajv, ['date-time', 'email', 'uri-reference', 'uuid'])
  ajv.addSchema(document, 'document')
  const operations = operationsOf(document)
  const routes = operations.map((each) => ({ each, pattern: patternOf(each.path) }))
  // Of two paths that fit, the one with fewer parameters is meant, as in the router.
  routes.sort((a, b) => parametersIn(a.each.path) - parametersIn(b.each.path))

  function violation(pointer: string, value: unknown): string | null {
    const validate = validatorAt(pointer)
    return validate(value) ? null : ajv.errorsText(validate.errors, { dataVar: 'value' })
  }

  function validatorAt(pointer: string): ValidateFunction {
    const reference = `document#${encodeURI(pointer)}`
    return ajv.getSchema(reference) ?? ajv.compile({ $ref: reference })
  }

  const api: ApiDocument = {
    document,
    operations,

    operationOf(method, url) {
      // HEAD is answered as GET and is not a matter of its own.
      const wanted = method === 'HEAD' ? 'GET' : method.toUpperCase()
      const [path = ''] = url.split('?')
      return routes.find(({ each, pattern }) => each.method === wanted && pattern.test(path))?.each
    },

    resolve<T>(value: T | Reference): T {
      const { $ref } = value as Partial<Reference>
      return ($ref === undefined ? value : at(document, $ref.slice(1))) as T
    },

    violation,

    checkResponse(method, url, response) {
      if (isAboutTheApi(url)) return
      const found = api.operationOf(method, url)
      const problem = found
        ? violationOfOperation(api, found, method, response)
        : violationOfNothing(api, response)
      if (problem === null) return
      const where = `${method} ${url} (${found?.operation.operationId ?? 'no operation'})`
      throw new Error(
        `${where} answered ${response.statusCode}: ${problem}\n${response.body.slice(0, 500)}`
      )
    }
  }
  return api
}

function operationsOf({ paths }: Document): DocumentedOperation[] {
  return Object.entries(paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, operation]) => ({
      method: method.toUpperCase(),
      path,
      pointer: `/paths/${path.replaceAll('~', '~0').replaceAll('/', '~1')}/${method}`,
      operation
    }))
  )
}

function violationOfOperation(
  api: ApiDocument,
  { operation, pointer }: DocumentedOperation,
  method: string,
  response: LightMyRequestResponse
): string | null {
  const { statusCode } = response
  const given = operation.responses[statusCode]
  if (!given) return 'the status is not documented'
  const documented = api.resolve(given)
  const at =
    given === documented
      ? `${pointer}/responses/${statusCode}`
      : (given as unknown as Reference).$ref.slice(1)
  return (
    violationOfHeaders(api, documented as Response, response) ??
    violationOfContent(api, documented as Response, at, method, response)
  )
}

function violationOfHeaders(
  api: ApiDocument,
  documented: Response,
  { headers }: LightMyRequestResponse
): string | null {
  const promised = Object.entries(documented.headers ?? {})
  for (const [name, given] of promised) {
    const header = api.resolve<Header>(given)
    const value = headers[name.toLowerCase()]
    if (value === undefined) {
      if (header.required) return `the header ${name} is missing`
      continue
    }
    const parsed = header.schema.type === 'integer' ? Number(value) : value
    const pointer = `/components/headers/${name}/schema`
    const violation = api.violation(pointer, parsed)
    if (violation) return `the header ${name} is not as documented: ${violation}`
  }
  const names = promised.map(([name]) => name)
  const silent = Object.keys(api.document.components.headers ?? {}).find(
    (name) => headers[name.toLowerCase()] !== undefined && !names.includes(name)
  )
  return silent ? `the header ${silent} is not documented for this answer` : null
}

function violationOfContent(
  api: ApiDocument,
  { content }: Response,
  pointer: string,
  method: string,
  response: LightMyRequestResponse
): string | null {
  const type = essence(response)
  if (!content) return response.body || type ? 'there is content where the document has none' : null
  if (!type || !content[type]) return `the content type ${type} is not documented`
  if (method === 'HEAD' || !/[/+]json$/.test(type)) return null
  const value = type.endsWith('json') ? response.json() : response.body
  return api.violation(`${pointer}/content/${type.replaceAll('/', '~1')}/schema`, value)
}

/** The document and the page that shows it, which are no operations. */
function isAboutTheApi(url: string): boolean {
  return /^\/api\/(docs|openapi\.json)/.test(url)
}

/** Where there is no operation there is nothing but a problem. */
function violationOfNothing(api: ApiDocument, response: LightMyRequestResponse): string | null {
  if (![400, 404].includes(response.statusCode)) return 'no operation is documented'
  if (essence(response) !== 'application/problem+json') return 'it is no problem'
  // HEAD has none of the body that its headers describe.
  if (response.raw.req.method === 'HEAD') return null
  return api.violation('/components/schemas/Problem', response.json())
}

function essence({ headers }: LightMyRequestResponse): string | undefined {
  return headers['content-type']?.toString().split(';')[0]
}

function patternOf(path: string): RegExp {
  const escaped = path.replace(/[.*+?^$()|[\]\\]/g, '\\$&')
  return new RegExp(`^${escaped.replace(/\{[^}]+\}/g, '[^/]+')}$`)
}

function parametersIn(path: string): number {
  return path.split('{').length - 1
}

/** The value at a JSON pointer. */
function at(document: unknown, pointer: string): unknown {
  let value = document
  for (const token of pointer.split('/').slice(1))
    value = (value as Record<string, unknown>)[token.replaceAll('~1', '/').replaceAll('~0', '~')]
  return value
}
