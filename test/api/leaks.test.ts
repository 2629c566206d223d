import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { LightMyRequestResponse } from 'fastify'
import t, { type Test } from 'tap'
import { openLocalIdentity } from '../../adapters/identity/local.js'
import { ACROSS_TENANTS, type TenantId } from '../../adapters/storage/port.js'
import { resources } from '../../schemas/registry.js'
import { users } from '../../schemas/users.js'
import { createKeyring } from '../../src/encryption.js'
import { cheapHasher, type Person, type Send, testApi } from '../support/api.js'
import { logLines } from '../support/log-lines.js'
import { type DocumentedOperation, documentOf } from '../support/openapi.js'
import { createWorld, type SampleRequest, samples, type World } from '../support/sample-requests.js'
import { scriptedProvider } from '../support/scripted-provider.js'
import { snapshotOf } from '../support/snapshot.js'
import { type TestStorage, temporaryFolder, testStorages } from '../support/storages.js'
import { broken, troubledStorage } from '../support/troubled-storage.js'

/** Fields of requests whose values are shown to nobody, whoever sends them where. */
const secretFields = ['password', 'current_password', 'value', 'prompt', 'system', 'refresh_token']
/** Fields that take any text or JSON, and give it back: what a client puts there is no secret. */
const dataFields = ['description', 'definition', 'input', 'output']
/** Operations that show a credential, and to whom it is given. */
const issuing = ['register', 'login', 'refresh', 'createApiKey', 'rotateApiKey']
const issuedFields = ['token', 'refresh_token', 'key']

for (const on of testStorages)
  t.test(`nothing leaks on ${on.kind}`, { skip: on.skip }, (t) => search(t, on))

/** What was found, and where it may be looked for. */
interface Channel {
  readonly name: string
  readonly text: string
}

t.test('the search finds what is encoded', async (t) => {
  const secret = 'a secret?>~ of some length'
  for (const around of ['', 'x', 'xy', 'xyz'])
    for (const encoding of ['base64', 'base64url', 'hex', 'utf8'] as const) {
      const text = Buffer.from(`${around}${secret}${around}`).toString(encoding)
      t.ok(
        formsOf(secret).some((form) => text.includes(form)),
        `${encoding} after ${around}`
      )
    }
})

async function search(t: Test, on: TestStorage) {
  const known = new Map<string, string>()
  const mark = (kind: string) => {
    const made = `Mk${randomBytes(12).toString('hex')}`
    known.set(made, kind)
    return made
  }
  const { stream, lines } = logLines()
  const llmLog = join(temporaryFolder(t), 'llm.log')
  const troubled = troubledStorage(await on.open(t))
  const { storage } = troubled
  const secret = mark('AUTH_SECRET').repeat(2)
  const key = randomBytes(32)
  known.set(key.toString('latin1'), 'ENCRYPTION_KEY')
  const identity =
    (await on.openIdentity?.(t, storage)) ??
    (await openLocalIdentity({ storage, secret, hasher: cheapHasher }))
  const api = await testApi(t, {
    storage,
    identity,
    keyring: createKeyring([{ id: 'default', key }]),
    providers: [scriptedProvider],
    logger: { level: 'trace', stream },
    env: {
      AUTH_SECRET: secret,
      ENCRYPTION_KEY: key.toString('base64'),
      OPENAI_API_KEY: mark('OPENAI_API_KEY'),
      LLM_BANNED_TERMS: mark('a banned term'),
      LLM_RATE_LIMIT_PER_MINUTE: '1000000',
      LLM_LOG_PATH: llmLog
    }
  })
  const document = await documentOf(api.app)
  const writeOnly = resources.flatMap((resource) => resource.writeOnly as string[])
  t.strictSame(
    writeOnly.filter((name) => !secretFields.includes(name)),
    [],
    'every field that no answer shows is looked for'
  )

  const answers: Channel[] = []
  const issued: { readonly own: readonly string[]; readonly text: string }[] = []
  let requests = 0

  /** Keeps what came back for the search; what a credential is for is searched for from now on. */
  function keep(what: string, operationId: string, answer: LightMyRequestResponse): void {
    requests++
    const text = `${JSON.stringify(answer.headers)}\n${answer.body}`
    const credentials = issuing.includes(operationId) && answer.statusCode < 300
    if (!credentials) {
      answers.push({ name: `${what}: ${answer.statusCode}`, text })
      return
    }
    const body = answer.json()
    const own = issuedFields.flatMap((field) => (body[field] ? [body[field] as string] : []))
    for (const each of own) known.set(each, `what ${operationId} answers`)
    issued.push({ own, text })
  }

  const tenants: TenantId[] = []
  for (const documented of document.operations) {
    const { operationId } = documented.operation
    const world = await createWorld(api)
    tenants.push(await tenantOf(world.admin))
    for (const token of [world.admin.token, world.admin.refreshToken]) known.set(token, 'a token')
    const sample = samples[operationId]?.(world)
    if (!sample) throw new Error(`Add requests of ${operationId} to sample-requests.ts`)
    for (const [what, request, by] of requestsOf(documented, world, api.as, api.send, mark)) {
      const send = () => by(documented.method as 'GET', request.url, request.body, request.headers)
      const trouble = what === 'a fault of the storage'
      const answer = trouble
        ? await troubled.trouble(
            broken(() => new Error('the storage is broken')),
            send
          )
        : await send()
      keep(`${operationId}, ${what}`, operationId, answer)
    }
  }

  async function tenantOf({ id }: Person): Promise<TenantId> {
    const row = await api.storage.get({ resource: users, tenant: ACROSS_TENANTS }, id)
    return row?.tenant_id as TenantId
  }

  const stored: unknown[] = []
  for (const tenant of tenants) stored.push(await snapshotOf(api.storage, tenant))
  const docs = await api.app.inject('/api/docs')
  const { body: openapi } = await api.app.inject('/api/openapi.json')
  await api.app.close()

  const log = lines.join('')
  const channels: Channel[] = [
    { name: 'the log', text: log },
    { name: 'the log of LLM calls', text: readFileSync(llmLog, 'utf8') },
    { name: 'the storage, audit included', text: JSON.stringify(stored) },
    { name: 'the OpenAPI document', text: openapi },
    { name: 'Swagger UI', text: docs.body },
    ...joined(answers)
  ]
  t.ok(
    channels.every(({ text }) => text.length > 100),
    'there is something to search'
  )
  t.match(log, '"level":50', 'faults are in the log')
  let looked = 0
  const found: string[] = []
  for (const [value, kind] of known)
    for (const form of formsOf(value)) {
      looked++
      for (const { name, text } of channels)
        if (text.includes(form)) found.push(`${kind} in ${name}`)
      for (const { own, text } of issued)
        if (!own.includes(value) && text.includes(form) && !own.some((each) => each.includes(form)))
          found.push(`${kind} in another's credentials`)
    }
  t.strictSame([...new Set(found)], [])
  t.comment(
    `${requests} requests, ${known.size} secrets in ${looked} forms on ${on.kind}: ` +
      `${log.split('\n').length} lines of log, ${answers.length} answers`
  )
}

/** One text to search for each status of an operation, not one for each answer. */
function joined(answers: readonly Channel[]): Channel[] {
  const texts = new Map<string, string>()
  for (const { name, text } of answers) texts.set(name, (texts.get(name) ?? '') + text)
  return [...texts].map(([name, text]) => ({ name, text }))
}

/** As it is, in base64 wherever it begins in what is encoded, and in hex. */
function formsOf(value: string): string[] {
  const bytes = Buffer.from(value, 'latin1')
  const base64 = [0, 1, 2].flatMap((shift) => {
    const text = Buffer.concat([Buffer.alloc(shift), bytes]).toString('base64')
    // Without the characters that the bytes around it have a part in.
    const inner = text.slice(shift === 0 ? 0 : 4, -4)
    return [inner, inner.replaceAll('+', '-').replaceAll('/', '_')]
  })
  return [...new Set([value, ...base64, bytes.toString('hex'), encodeURIComponent(value)])]
}

type Request = readonly [what: string, request: SampleRequest, by: Send]

/** Ways to send a secret to an operation, in its place and in others. */
function requestsOf(
  { operation, method }: DocumentedOperation,
  world: World,
  as: (token: string) => Send,
  anonymous: Send,
  mark: (kind: string) => string
): Request[] {
  const sample = samples[operation.operationId]?.(world) ?? {}
  const success = sample[Math.min(...Object.keys(sample).map(Number))] as SampleRequest
  const { url, body } = success
  const open = operation.security.length === 0
  const send = open ? anonymous : world.admin.send
  const join = url.includes('?') ? '&' : '?'
  const json = { 'content-type': 'application/json' }
  const requests: Request[] = []
  const given = (body ?? {}) as Record<string, unknown>
  const marked = () =>
    Object.fromEntries(
      Object.entries(given).map(([name, value]) =>
        secretFields.includes(name)
          ? [name, mark(`${name} of ${operation.operationId}`)]
          : [name, value]
      )
    )

  requests.push(
    ['a fault of the storage', { url, body: body && marked() }, send],
    ['a secret in the query', { url: `${url}${join}password=${mark('a query')}` }, send],
    ['a secret in a known parameter', { url: `${url}${join}limit=${mark('a limit')}` }, send]
  )
  for (const authorization of [
    mark('Authorization'),
    `Bearer ${mark('a token')}`,
    `Bearer ${mark('a token')} ${mark('a token')}`,
    `Basic ${Buffer.from(`u:${mark('Basic')}`).toString('base64')}`,
    `Bearer wfa_${mark('an API key')}`,
    `Bearer e30.${Buffer.from(mark('claims')).toString('base64url')}.x`
  ])
    requests.push(['Authorization', { url, body, headers: { authorization } }, anonymous])
  if (method !== 'GET')
    requests.push(
      ['malformed JSON', { url, body: `{"password":"${mark('broken JSON')}`, headers: json }, send],
      ['malformed JSON', { url, body: `${mark('no JSON')}`, headers: json }, send],
      [
        'another type',
        { url, body: mark('text'), headers: { 'content-type': 'text/plain' } },
        send
      ],
      ['an unknown field', { url, body: { ...given, unknown: mark('an unknown field') } }, send],
      ['a list', { url, body: [mark('a list')] }, send],
      ['NUL', { url, body: { ...given, password: `${mark('NUL')}\0` } }, send]
    )
  for (const name of Object.keys(given).filter((each) => !dataFields.includes(each))) {
    const wrong = [mark(`a list in ${name}`)]
    const [first] = wrong
    requests.push(
      [`${name} is a list`, { url, body: { ...given, [name]: [{ password: first }] } }, send],
      [`${name} is too long`, { url, body: { ...given, [name]: mark('long').repeat(4000) } }, send]
    )
  }
  if (!open)
    requests.push(
      ['no session', success, as(`${mark('a token')}.${mark('a token')}.${mark('a token')}`)],
      ['no role', success, world.viewer.send]
    )
  for (const name of secretFields)
    if (name in given)
      requests.push([`${name} refused`, { url, body: { ...given, [name]: mark(name) } }, send])
  // Last: it may delete what the others are about, or sign somebody out.
  requests.push(['as it should be', { ...success, body: body && marked() }, send])
  return requests
}
