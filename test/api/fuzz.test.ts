import { AsyncLocalStorage } from 'node:async_hooks'
import { randomInt } from 'node:crypto'
import fc, { type Arbitrary, type RunDetails } from 'fast-check'
import type { LightMyRequestResponse } from 'fastify'
import t, { type Test } from 'tap'
import type { LlmProvider } from '../../adapters/llm/port.js'
import { ACROSS_TENANTS, type Storage, type TenantId } from '../../adapters/storage/port.js'
import { resources } from '../../schemas/registry.js'
import type { AnyResource } from '../../schemas/resource.js'
import { tenants } from '../../schemas/tenants.js'
import { users } from '../../schemas/users.js'
import { problems } from '../../src/problems.js'
import { type Person, type Send, type TestApi, testApi } from '../support/api.js'
import {
  hostileJson,
  hostileText,
  nearly,
  objectsOf,
  type Reading,
  type Schema,
  valuesOf
} from '../support/arbitraries.js'
import { type ApiDocument, type DocumentedOperation, documentOf } from '../support/openapi.js'
import { sampleInserts } from '../support/sample-rows.js'
import { type TestStorage, testStorages } from '../support/storages.js'

const seed = Number(process.env.FUZZ_SEED ?? randomInt(2 ** 31))
const mostRuns = Number(process.env.FUZZ_RUNS ?? 200)
/** Of the cases of a route, at least so many must be valid and get as far as the storage. */
const LEAST_SHARE = 1 / 3

/** Routes that have no business with the storage. */
const storageless: Readonly<Record<string, string>> = {
  getHealth: 'says that the process is up, whatever the storage does',
  complete: 'asks the provider; what it used is counted in memory and written later',
  stream: 'the same',
  streamByQuery: 'the same'
}

const aboutEchoes = { created: 1_769_851_800, usage: null, finish_reason: 'stop' }

/** A model that answers with what it was asked. */
const echo: LlmProvider = {
  name: 'openai',
  defaultModel: 'echo',
  async complete({ prompt, model }) {
    return { content: prompt, model, ...aboutEchoes }
  },
  async *stream({ prompt, model }) {
    yield { delta: prompt }
    yield { end: { model, ...aboutEchoes } }
  },
  close() {}
}

/** A value that stands for one of those that exist when the request is sent. */
class Existing {
  constructor(
    readonly pool: string,
    readonly n: number
  ) {}
  toJSON(): string {
    return `<${this.pool} ${this.n}>`
  }
}
const existing = (pool: string) => fc.nat(1000).map((n) => new Existing(pool, n))

/** A request that is yet to be told which rows exist. */
interface Case {
  readonly valid: boolean
  readonly path: Readonly<Record<string, unknown>>
  readonly query: Readonly<Record<string, unknown>> | string
  readonly body?: Readonly<Record<string, unknown>> | string | undefined
  readonly headers: Readonly<Record<string, string>>
}

for (const storage of testStorages)
  t.test(`random requests on ${storage.kind}`, { skip: storage.skip }, (t) => fuzz(t, storage))

/** Of few cases, fewer than the share may be an accident: chance alone makes fewer one time in 40. */
function leastOf(cases: number): number {
  const least = LEAST_SHARE * cases
  return cases < 200 ? least - 2 * Math.sqrt(least * (1 - LEAST_SHARE)) : least
}

async function fuzz(t: Test, on: TestStorage) {
  // There a request takes five times as long; the next run of the tests draws others.
  const numRuns = on.kind === 'supabase' ? Math.ceil(mostRuns / 2) : mostRuns
  t.comment(`FUZZ_SEED=${seed} FUZZ_RUNS=${mostRuns}`)
  const counted = countCalls(await on.open(t))
  const api = await testApi(t, {
    storage: counted.storage,
    providers: [echo],
    env: { LLM_RATE_LIMIT_PER_MINUTE: '1000000' }
  })
  const document = await documentOf(api.app)
  const stage = await setStage(api, counted.raw)

  for (const [index, found] of document.operations.entries()) {
    const { operationId } = found.operation
    t.test(`${found.method} ${found.path}`, async (t) => {
      let reached = 0
      const property = fc.asyncProperty(casesOf(found, document), async (each) => {
        const ids = await stage.prepare(found.path, each)
        const url = fill(found.path, each, ids)
        const { answer, calls } = await counted.during(() =>
          stage.send(found.method, url, each, ids)
        )
        if (each.valid && answer.statusCode !== 400 && calls > 0) reached++
        await stage.learn(answer, found.method, ids)
        assertProper(answer, found, document)
      })
      // Not the same seed for all, which would make the same choices for each of them.
      await fc.assert(property, { seed: seed + index, numRuns, reporter: report })
      if (operationId in storageless) t.equal(reached, 0, 'needs no storage')
      else t.ok(reached >= leastOf(numRuns), `${reached} of ${numRuns} valid and at the storage`)
    })
  }
}

/**
 * The storage, and how many calls of a request reached it, but for those that tell who sends it.
 * What runs in the background is nobody's request.
 */
function countCalls(raw: Storage) {
  const counts = new AsyncLocalStorage<{ calls: number }>()
  const count = () => {
    const current = counts.getStore()
    if (current) current.calls++
  }
  const storage: Storage = {
    kind: raw.kind,
    get(from, key) {
      const { resource, tenant } = from as { resource: AnyResource; tenant: unknown }
      if (tenant !== ACROSS_TENANTS && resource !== tenants) count()
      return raw.get(from, key)
    },
    list(from, query) {
      count()
      return raw.list(from, query)
    },
    commit(commit) {
      count()
      return raw.commit(commit)
    },
    compact: () => raw.compact(),
    ping() {
      count()
      return raw.ping()
    },
    close: () => raw.close()
  }
  async function during<T>(request: () => Promise<T>): Promise<{ answer: T; calls: number }> {
    const current = { calls: 0 }
    const answer = await counts.run(current, request)
    return { answer, calls: current.calls }
  }
  return { storage, raw, during }
}

/** A third and more of the cases are valid; the others are near to it, or far from anything. */
function casesOf({ path, operation }: DocumentedOperation, document: ApiDocument): Arbitrary<Case> {
  const reading: Reading = {
    resolve: (schema) => document.resolve(schema),
    suggest: (property) => suggestion(property, operation.operationId)
  }
  const parameters = (operation.parameters ?? []).map((each) => document.resolve(each))
  const params = parameters.filter((each) => each.in === 'path')
  const collection = collectionOf(path)
  const ids = fc.record(
    Object.fromEntries(
      params.map(({ name, schema }) => [
        name,
        fc.oneof({ weight: 6, arbitrary: existing(collection) }, valuesOf(schema, reading))
      ])
    )
  )
  const queryParameters = parameters.filter((each) => each.in === 'query')
  const queries = queriesOf(queryParameters, reading)
  const schema = operation.requestBody?.content['application/json']?.schema
  const bodies = schema
    ? objectsOf(document.resolve(schema as Schema), reading)
    : fc.constant(undefined)
  const fields = schema
    ? Object.keys((document.resolve(schema as Schema).properties ?? {}) as object)
    : []
  const queryNames = queryParameters.map(({ name }) => name)

  function cases(valid: boolean, parts: { [Part in keyof Case]?: Arbitrary<Case[Part]> }) {
    return fc.record({
      valid: fc.constant(valid),
      path: parts.path ?? ids,
      query: parts.query ?? queries,
      body: parts.body ?? bodies,
      headers: parts.headers ?? fc.constant({})
    }) as Arbitrary<Case>
  }

  const hostile: Arbitrary<Case>[] = [
    cases(false, { query: nearly(queries, queryNames, hostileText) }),
    cases(false, { query: hostileQuery }),
    cases(false, { headers: hostileHeaders }),
    cases(false, { body: schema ? nearly(bodies as never, fields) : hostileJson }),
    cases(false, { body: hostileJson })
  ]
  if (params.length) {
    const strange = fc.record(Object.fromEntries(params.map(({ name }) => [name, pathText])))
    hostile.push(cases(false, { path: strange }))
  }
  return fc.oneof(
    { weight: 7, arbitrary: cases(true, {}) },
    { weight: 3, arbitrary: fc.oneof(...hostile) }
  )
}

interface Parameter {
  readonly name: string
  readonly schema: Schema
}

function queriesOf(parameters: readonly Parameter[], reading: Reading) {
  // A cursor is made by a list and by nothing else: those of the Link headers are followed.
  const drawn = parameters.filter(({ name }) => name !== 'cursor')
  const properties = Object.fromEntries(drawn.map(({ name, schema }) => [name, schema]))
  return objectsOf({ type: 'object', properties }, reading)
}

/** Without what a client takes for a folder and never sends. */
const pathText = hostileText.filter((text) => !['.', '..'].includes(text))

const hostileQuery = fc.oneof(
  fc.constantFrom('?', '&', '=', '%', '%zz', '%ed%a0%80=1', 'limit=1&limit=2', 'cursor=%00'),
  fc.webQueryParameters(),
  hostileText.map((text) => `cursor=${encodeURIComponent(text.toWellFormed())}`),
  fc.base64String({ maxLength: 60 }).map((text) => `cursor=${text.replaceAll('=', '')}`)
)

const headerText = fc.string({
  unit: fc.integer({ min: 0x20, max: 0x7e }).map((code) => String.fromCharCode(code)),
  maxLength: 20
})
const hostileHeaders = fc
  .tuple(
    fc.constantFrom(
      'if-match',
      'content-type',
      'accept',
      'idempotency-key',
      'x-forwarded-for',
      'accept-version',
      'range',
      'if-none-match',
      'origin'
    ),
    fc.oneof(
      fc.constantFrom(
        '*',
        '""',
        '"1"',
        'W/"1"',
        'application/json; charset=latin1',
        'text/plain',
        'null'
      ),
      headerText
    )
  )
  .map(([name, value]) => ({ [name]: value.trim() }))

const daysAgo = (min: number, max: number) =>
  fc
    .integer({ min, max })
    .map((days) => new Date(Date.now() - days * 86_400_000).toISOString().slice(0, 10))
const recentDays: Readonly<Record<string, Arbitrary<string>>> = {
  since: daysAgo(30, 100),
  until: daysAgo(0, 30)
}

/** Where what exists is more telling than any value that the schema allows. */
function suggestion(property: string, operationId: string): Arbitrary<unknown> | undefined {
  if (property === 'provider') return fc.constant(echo.name)
  if (operationId === 'getLlmUsage' && property in recentDays) return recentDays[property]
  if (['refresh_token', 'current_password'].includes(property)) return existing(property)
  if (operationId === 'login' && ['email', 'password'].includes(property)) return existing(property)
  const reference = resources
    .flatMap(({ references }) => references)
    .find(({ field }) => field === property)
  return reference && existing(reference.to)
}

/** Whose ids the parameter of a path names: `flows` in `/api/flows/{id}/executions`. */
function collectionOf(path: string): string {
  const segments = path.split('/')
  const parameter = segments.findIndex((segment) => segment.startsWith('{'))
  return segments[parameter - 1] ?? ''
}

/** The path and query of a request, with its ids in place. */
function fill(path: string, { path: params, query }: Case, ids: Ids): string {
  const filled = path.replace(/\{(\w+)\}/g, (_, name: string) =>
    encodeURIComponent(String(ids.settle(params[name])).toWellFormed())
  )
  const text = typeof query === 'string' ? query : encodeQuery(ids.settle(query) as object)
  return text === '' ? filled : `${filled}?${text}`
}

function encodeQuery(query: object): string {
  return Object.entries(query)
    .map(([name, value]) =>
      [name, String(value)].map((text) => encodeURIComponent(text.toWellFormed()))
    )
    .map(([name, value]) => `${name}=${value}`)
    .join('&')
}

/** The values that exist when a request is sent, and which of them it used. */
interface Ids {
  settle(value: unknown): unknown
  readonly used: readonly { readonly pool: string; readonly value: string }[]
}

/** An admin with rows to act on, which are made again as requests delete them. */
async function setStage(api: TestApi, raw: Storage) {
  const pools = new Map<string, string[]>()
  let admin: Person
  let asKey: Send
  let tenant: TenantId
  let count = 0

  async function enter(): Promise<void> {
    pools.clear()
    admin = await api.register(`Fuzzed ${++count}`)
    const row = await raw.get({ resource: users, tenant: ACROSS_TENANTS }, admin.id)
    tenant = row?.tenant_id as TenantId
    const member = await enterMember()
    asKey = api.as((await admin.send('POST', '/api-keys', { name: 'Own' })).json().key)
    pools.set('refresh_token', [member.refreshToken, admin.refreshToken])
    pools.set('current_password', [admin.password])
  }

  /** Somebody who signs in. */
  async function enterMember(): Promise<Person> {
    const member = await api.person(admin, 'viewer')
    pools.set('email', [member.email])
    pools.set('password', [member.password])
    return member
  }
  await enter()

  /** Puts rows of a resource in place of those that are gone. */
  async function refill(name: string): Promise<void> {
    const resource = resources.find((each) => [each.name, each.path].includes(name))
    const pool = pools.get(name) ?? []
    pools.set(name, pool)
    while (resource && pool.length < 3) {
      const changes = sampleInserts(resource, ++count)
      await raw.commit({ tenant, changes })
      const row: Readonly<Record<string, unknown>> = changes.at(-1)?.row ?? {}
      pool.push(row[resource.key] as string)
    }
  }

  async function refillToken(): Promise<void> {
    if (pools.get('refresh_token')?.length) return
    // Somebody new: those who guessed at the passwords of the others may have to wait.
    const { refreshToken } = await api.register(`Fuzzed ${++count}`)
    pools.set('refresh_token', [refreshToken])
  }

  return {
    /** Sees to it that what the case takes from the pools is there. */
    async prepare(path: string, each: Case): Promise<Ids> {
      for (const { pool } of existingIn([each.path, each.query, each.body]))
        await (pool === 'refresh_token' ? refillToken() : refill(pool))
      const used: { pool: string; value: string }[] = []
      function settle(value: unknown): unknown {
        if (value instanceof Existing) {
          const pool = pools.get(value.pool) ?? []
          const chosen = pool[value.n % pool.length]
          if (chosen === undefined) throw new Error(`${path}: nothing to choose from ${value.pool}`)
          used.push({ pool: value.pool, value: chosen })
          return chosen
        }
        if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
        return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, settle(inner)]))
      }
      return { settle, used }
    },

    async send(method: string, url: string, { body, headers }: Case, ids: Ids) {
      const type = { 'content-type': 'application/json' }
      const given = typeof body === 'string' ? body : body && JSON.stringify(ids.settle(body))
      const bodyless = given === undefined || method === 'GET'
      const send = url.startsWith('/api/api-keys/me') ? asKey : admin.send
      return send(
        method as 'GET',
        url.slice('/api'.length),
        bodyless ? undefined : given,
        bodyless ? headers : { ...type, ...headers }
      )
    },

    /** Forgets what is gone and follows a list to its next page. */
    async learn(answer: LightMyRequestResponse, method: string, ids: Ids): Promise<void> {
      const gone =
        answer.statusCode === 404 ||
        answer.statusCode === 409 ||
        (method === 'DELETE' && answer.statusCode === 204)
      for (const { pool, value } of ids.used)
        if (
          pool === 'refresh_token'
            ? answer.statusCode !== 400
            : gone && !pool.endsWith('password') && pool !== 'email'
        )
          pools.set(pool, pools.get(pool)?.filter((each) => each !== value) ?? [])
      const [, next] = /^<\/api(.*)>/.exec(String(answer.headers.link ?? '')) ?? []
      if (next) assertStatus(await admin.send('GET', next), 200)
      if (answer.statusCode === 401 && answer.json().code === 'unauthenticated') await enter()
      // After a few wrong passwords the right one has to wait, too.
      if (answer.statusCode === 429) await (method === 'PATCH' ? enter() : enterMember())
    }
  }
}

function existingIn(value: unknown): Existing[] {
  if (value instanceof Existing) return [value]
  return typeof value === 'object' && value !== null ? Object.values(value).flatMap(existingIn) : []
}

/** The case that failed, cut where it is long, and how it failed. */
function report({ failed, counterexample, errorInstance }: RunDetails<[Case]>): void {
  if (!failed) return
  const shown = fc.stringify(counterexample).slice(0, 1000)
  throw new Error(`FUZZ_SEED=${seed}: ${(errorInstance as Error).message}\n${shown}`, {
    cause: errorInstance
  })
}

/** What no answer may hold: stack frames, SQL, file paths, errors of packages. */
const internals =
  /\n\s+at |node:internal|node_modules|(?:[\s"'(]|^)\/(?:[\w.-]+\/)+[\w.-]+\.(?:[jt]s|sql|db)\b|SQLITE_|sqlite|postgres|pgrst|\binsert into\b|\bselect .+ from\b|\bupdate \w+ set\b|ECONN|TypeError|RangeError|Cannot read prop/i

function assertProper(
  answer: LightMyRequestResponse,
  { method, operation }: DocumentedOperation,
  document: ApiDocument
): void {
  const { statusCode, body } = answer
  const shown = `${method} answered ${statusCode} ${body.slice(0, 300)}`
  const type = String(answer.headers['content-type'] ?? '')
  if (statusCode >= 500 || statusCode < 200) throw new Error(shown)
  if (statusCode === 204 || statusCode === 304) {
    if (body !== '') throw new Error(`${shown}: a body`)
    return
  }
  const documented = document.resolve(operation.responses[statusCode] ?? { description: '' })
  if (type === 'text/event-stream' && documented.content?.[type]) {
    for (const [, data] of body.matchAll(/^data: (.*)$/gm)) JSON.parse(data as string)
    if (body.includes('event: error')) throw new Error(`${shown}: failed`)
    return
  }
  const value = JSON.parse(body)
  if (statusCode < 300) {
    if (!type.startsWith('application/json')) throw new Error(`${shown}: ${type}`)
    return
  }
  if (!type.startsWith('application/problem+json')) throw new Error(`${shown}: ${type}`)
  const known = problems[value.code as keyof typeof problems]
  if (known?.status !== statusCode || value.status !== statusCode)
    throw new Error(`${shown}: no code that is known for this status`)
  if (internals.test(body)) throw new Error(`${shown}: shows internals`)
}

function assertStatus({ statusCode, body }: LightMyRequestResponse, expected: number): void {
  if (statusCode !== expected)
    throw new Error(`${statusCode} for ${expected}: ${body.slice(0, 300)}`)
}
