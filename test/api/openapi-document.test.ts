import { isDeepStrictEqual } from 'node:util'
import t from 'tap'
import { patternsInWords } from '../../schemas/patterns.js'
import { problems } from '../../src/problems.js'
import { testApi } from '../support/api.js'
import { type DocumentedOperation, documentOf, type Parameter } from '../support/openapi.js'
import { routesOf } from '../support/routes.js'

const { app } = await testApi(t)
const api = await documentOf(app)
const { document, operations } = api
const schemas = document.components.schemas as Record<string, Record<string, unknown>>

t.test('it is OpenAPI 3.1 with a server, a way to sign in and a license', async (t) => {
  t.match(document, {
    openapi: /^3\.1\.\d$/,
    info: { title: String, version: String, description: String, license: { name: 'MIT' } },
    servers: [{ url: '/' }],
    components: { securitySchemes: { bearerAuth: { type: 'http', scheme: 'bearer' } } }
  })
})

t.test('every route of the API is an operation, and HEAD is none', async (t) => {
  const documented = operations.map(
    ({ method, path }) => `${method} ${path.replace(/\{(\w+)\}/g, ':$1')}`
  )
  t.strictSame(
    documented.sort(),
    routesOf(app)
      .filter((route) => route !== 'GET /api/openapi.json')
      .sort()
  )
})

t.test('the codes that problems have are listed', async (t) => {
  t.match(schemas.Problem?.properties, { code: { 'x-extensible-enum': Object.keys(problems) } })
})

t.test('every operation has a name of its own, one tag and a summary', async (t) => {
  const ids = operations.map(({ operation }) => operation.operationId)
  t.equal(new Set(ids).size, ids.length)
  const tags = document.tags.map(({ name }) => name)
  for (const { operation } of operations) {
    t.match(operation.operationId, /^[a-z][A-Za-z]+$/)
    t.equal(operation.tags.length, 1)
    t.ok(tags.includes(operation.tags[0] as string), `${operation.tags} is described`)
    t.match(operation.summary, /^[A-Z][^.]+$/)
  }
  for (const { name, description } of document.tags) {
    t.ok(description, name)
    t.ok(
      operations.some(({ operation }) => operation.tags[0] === name),
      `${name} is used`
    )
  }
})

t.test('what a pattern of a request asks for can be said in words', async (t) => {
  const { headers: _, ...components } = document.components
  const patterns = [
    ...JSON.stringify([document.paths, components]).matchAll(/"pattern":("[^"]+")/g)
  ]
  t.ok(patterns.length > 0)
  for (const pattern of new Set(patterns.map(([, json]) => JSON.parse(json as string))))
    t.type(patternsInWords[pattern], 'string', pattern)
})

t.test('an operation takes a token or says that it takes none, and can fail', async (t) => {
  for (const { operation } of operations) {
    const { operationId, security, responses } = operation
    const open = security.length === 0
    if (!open) t.strictSame(security, [{ bearerAuth: [] }], operationId)
    if (!open) t.ok(responses[401], `${operationId} can be asked by nobody`)
    t.ok(responses[400] && responses[500], `${operationId} can fail`)
  }
})

t.test('what has a name is referred to and not repeated', async (t) => {
  const named = Object.entries(schemas)
  for (const { operation, pointer } of operations)
    for (const [place, schema] of schemasOf({ operation, pointer } as DocumentedOperation)) {
      const items = schema.type === 'array' ? (schema.items as Record<string, unknown>) : schema
      t.match(items.$ref, /^#\/components\/schemas\/\w+$/, place)
    }
  for (const [name, schema] of named)
    walk(schema, `#/components/schemas/${name}`, (each, place) => {
      if (each === schema) return
      const twin = named.find(([, other]) => isDeepStrictEqual(other, each))
      t.equal(twin, undefined, `${place} is ${twin?.[0]}`)
      t.not(each.properties, Object, `${place} has properties and so should have a name`)
    })
  t.match(schemas.SignedIn, { properties: { user: { $ref: '#/components/schemas/User' } } })
  t.match(schemas.Problem, {
    properties: { errors: { items: { $ref: '#/components/schemas/FieldProblem' } } }
  })
  for (const { operation } of operations)
    for (const [status, response] of Object.entries(operation.responses))
      if (Number(status) >= 400) t.match(response, { $ref: /^#\/components\/responses\/\w+$/ })
})

t.test('every component is used', async (t) => {
  const text = JSON.stringify(document)
  for (const [kind, parts] of Object.entries(document.components))
    for (const name of Object.keys(parts))
      if (kind !== 'securitySchemes')
        t.ok(text.includes(`"#/components/${kind}/${name}"`), `${kind}/${name}`)
})

t.test('parameters are described, and those of the path have the shape of a key', async (t) => {
  for (const { operation, path, method } of operations) {
    const parameters = (operation.parameters ?? []).map((each) => api.resolve<Parameter>(each))
    const inPath = parameters.filter((each) => each.in === 'path')
    const names = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name)
    t.strictSame(
      inPath.map(({ name }) => name),
      names,
      path
    )
    for (const { name, description, schema } of parameters)
      t.match(description, /\.$/, `${operation.operationId} ${name} ${JSON.stringify(schema)}`)
    for (const { schema, example, required } of inPath) {
      t.equal(required, true)
      t.ok(schema.pattern ?? schema.format, path)
      t.ok(example, path)
    }
    t.equal(
      parameters.some(({ name }) => name === 'If-Match'),
      operation.responses[412] !== undefined,
      `${operation.operationId} has If-Match where that can fail`
    )
    t.equal(
      parameters.some(({ name }) => name === 'If-None-Match'),
      method === 'PUT' || operation.responses[304] !== undefined,
      `${operation.operationId} has If-None-Match where that is heeded`
    )
    t.equal(
      parameters.some(({ name }) => name === 'Idempotency-Key'),
      method === 'POST' && operation.responses[201] !== undefined,
      `${operation.operationId} has Idempotency-Key where it creates`
    )
  }
})

t.test('a replacement says what becomes of a field that is left out', async (t) => {
  for (const { operation, method } of operations)
    if (method === 'PUT') t.match(operation.description, /left out.+default/, operation.operationId)
})

/** What makes only those wait who guess at a password, or at emails. */
const uncounted = ['updateOwnUser', 'createUser', 'updateUser']

t.test('answers have headers where clients need them, and 204 and 304 no content', async (t) => {
  for (const { operation, method, path } of operations) {
    const { operationId, responses } = operation
    for (const [status, given] of Object.entries(responses)) {
      const { headers = {}, content } = api.resolve(given)
      const what = `${operationId} ${status}`
      const has = (name: string) => name in headers
      t.ok(has('X-Request-Id'), what)
      t.equal(content === undefined, ['204', '304'].includes(status), what)
      t.equal(has('WWW-Authenticate'), status === '401', what)
      t.equal(has('Retry-After'), ['429', '503'].includes(status), what)
      for (const name of ['RateLimit-Limit', 'RateLimit-Remaining', 'RateLimit-Reset'])
        t.equal(
          has(name),
          '429' in responses && !uncounted.includes(operationId),
          `${what} ${name}`
        )
      const page = operationId.startsWith('list') && status === '200'
      t.equal(has('X-Total-Count'), page, what)
      t.equal(has('Link'), page || (operationId === 'getLlmUsage' && status === '200'), what)
      if (status === '201' && !path.startsWith('/api/auth/')) t.ok(has('Location'), what)
      if (has('Location')) t.ok(has('ETag'), what)
      if (['PUT', 'PATCH'].includes(method) && Number(status) < 300) t.ok(has('ETag'), what)
    }
  }
})

t.test('it says which creations are not answered as the first time', async (t) => {
  const header = document.components.parameters?.IdempotencyKey as Parameter
  for (const text of [document.info.description, header.description])
    t.match(text, 'already_created')
})

t.test('every example is valid', async (t) => {
  for (const [name, schema] of Object.entries(schemas)) {
    const pointer = `/components/schemas/${name}`
    t.ok((schema.examples as unknown[] | undefined)?.length, `${name} has an example`)
    walk(schema, pointer, (each, place) => {
      for (const example of (each.examples as unknown[] | undefined) ?? [])
        t.equal(api.violation(place, example), null, place)
      if ('default' in each) t.equal(api.violation(place, each.default), null, place)
    })
  }
  for (const kind of ['parameters', 'headers'])
    for (const [name, part] of Object.entries(document.components[kind] ?? {}))
      if ('example' in (part as object))
        t.equal(
          api.violation(`/components/${kind}/${name}/schema`, (part as Parameter).example),
          null,
          name
        )
  for (const { operation, pointer } of operations)
    for (const [index, each] of (operation.parameters ?? []).entries())
      if ('example' in each)
        t.equal(
          api.violation(`${pointer}/parameters/${index}/schema`, each.example),
          null,
          `${pointer} ${each.name}`
        )
})

t.test('the example of an execution is one that there can be', async (t) => {
  const { examples } = schemas.Execution as { examples: [Record<string, string>] }
  const [{ started_at = '', finished_at = '', ...example }] = examples
  t.match(example, { status: 'success', error: null })
  t.ok(started_at < finished_at)
})

t.test('problems have an example of every code under its status', async (t) => {
  const shown: Record<string, number> = {}
  for (const [name, response] of Object.entries(document.components.responses ?? {})) {
    const { content = {} } = response as { content?: Record<string, { examples: object }> }
    t.strictSame(Object.keys(content), ['application/problem+json'], name)
    const { examples } = content['application/problem+json'] as { examples: object }
    for (const [code, { value }] of Object.entries(examples)) {
      t.equal(api.violation('/components/schemas/Problem', value), null, code)
      t.equal(value.code, code)
      shown[code] = value.status
    }
  }
  const all = Object.entries(problems).map(([code, { status }]) => [code, status])
  t.strictSame(shown, Object.fromEntries(all))
})

/** The schemas of an operation's body and answers, with where they are. */
function schemasOf({ operation, pointer }: DocumentedOperation) {
  const found: [string, Record<string, unknown>][] = []
  for (const [type, { schema }] of Object.entries(operation.requestBody?.content ?? {}))
    found.push([`${pointer}/requestBody/${type}`, schema])
  for (const [status, given] of Object.entries(operation.responses))
    for (const [type, { schema }] of Object.entries(api.resolve(given).content ?? {}))
      if (/json$/.test(type)) found.push([`${pointer}/${status}/${type}`, schema])
  return found
}

/** Visits a schema and those inside it. */
function walk(
  schema: Record<string, unknown>,
  place: string,
  visit: (schema: Record<string, unknown>, place: string) => void
): void {
  visit(schema, place)
  const inside: [string, unknown][] = []
  for (const [name, each] of Object.entries((schema.properties as object | undefined) ?? {}))
    inside.push([`properties/${name}`, each])
  for (const [index, each] of ((schema.anyOf as unknown[] | undefined) ?? []).entries())
    inside.push([`anyOf/${index}`, each])
  if (schema.items) inside.push(['items', schema.items])
  for (const [name, each] of inside)
    walk(each as Record<string, unknown>, `${place}/${name}`, visit)
}
