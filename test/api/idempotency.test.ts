import { randomBytes, randomUUID } from 'node:crypto'
import type { LightMyRequestResponse } from 'fastify'
import t from 'tap'
import { openLocalIdentity } from '../../adapters/identity/local.js'
import { AccountError, type Identity } from '../../adapters/identity/port.js'
import { StorageError } from '../../adapters/storage/errors.js'
import { ACROSS_TENANTS, type Storage, type TenantId } from '../../adapters/storage/port.js'
import { idempotencyKeys } from '../../schemas/idempotency-keys.js'
import { users } from '../../schemas/users.js'
import { createKeyring, type EncryptionKey } from '../../src/encryption.js'
import { plainResources } from '../../src/routes/every-resource.js'
import { cheapHasher, type Person, type Send, testApi } from '../support/api.js'
import { passTime } from '../support/pass-time.js'
import { sampleBody } from '../support/plain-resources.js'
import { testStorages } from '../support/storages.js'
import { brokenCommit, overtaken, troubledStorage } from '../support/troubled-storage.js'

/** What a client keeps of an answer. */
function kept({ statusCode, headers, json }: LightMyRequestResponse) {
  return { statusCode, body: json(), etag: headers.etag, location: headers.location }
}

/** Sends the same request, always with the same key. */
function repeatable(send: Send, url: string, body: object, key: string = randomUUID()) {
  return (changed: object = body) => send('POST', url, changed, { 'idempotency-key': key })
}

async function countRows({ send }: Pick<Person, 'send'>, url: string): Promise<number> {
  const { headers } = await send('GET', `${url}${url.includes('?') ? '&' : '?'}count=exact`)
  return Number(headers['x-total-count'])
}

type ChangeOfRow = readonly ['PATCH' | 'PUT' | 'DELETE', body?: object]
const rename: ChangeOfRow = ['PATCH', { name: 'Changed' }]

/** Every kind of POST that creates, and how its row is changed afterwards. */
const creations: readonly {
  readonly url: string
  readonly body: object
  readonly change?: ChangeOfRow
}[] = [
  { url: '/templates', body: { name: 'T', definition: { b: 1, a: [null, { d: 0.1 }] } } },
  { url: '/templates', body: { id: 'chosen', name: 'T' }, change: ['DELETE'] },
  { url: '/templates/t/flows', body: {}, change: ['PATCH', { name: 'Changed' }] },
  { url: '/flows', body: { name: 'F', template_id: 't' }, change: ['PUT', { name: 'Changed' }] },
  { url: '/flows/f/executions', body: { input: [1] }, change: ['PATCH', { status: 'running' }] },
  {
    url: '/secrets',
    body: { name: 'S', value: 'hidden', expires_at: '2999-01-31T10:00:00+02:00' },
    change: ['PUT', { value: 'other' }]
  },
  ...plainResources
    .filter(({ access }) => access?.operations.includes('create'))
    .map((resource) => ({
      url: `/${resource.path}`,
      body: sampleBody(resource),
      change: ['DELETE'] as const
    }))
]

for (const on of testStorages)
  t.test(`Idempotency-Key on ${on.kind}`, { skip: on.skip }, async (t) => {
    const sound = await on.open(t)
    const troubled = troubledStorage(sound)
    const { storage } = troubled
    const api = await testApi(t, { on, storage })
    const admin = await api.register()
    const { send } = admin
    await send('PUT', '/templates/t', { name: 'T' })
    await send('PUT', '/flows/f', { name: 'F' })

    for (const { url, body, change = rename } of creations)
      t.test(`POST ${url} is answered as the first time`, async (t) => {
        const post = repeatable(send, url, body)
        const first = await post()
        t.equal(first.statusCode, 201, first.body)
        const location = first.headers.location as string
        t.strictSame(kept(await post()), kept(first), 'at once')
        const [method, changes] = change
        const changed = await send(method, location.replace('/api', ''), changes)
        t.ok(changed.statusCode < 300, changed.body)
        t.strictSame(kept(await post()), kept(first), 'after the row changed')
        const reversed = Object.fromEntries(Object.entries(body).reverse())
        t.strictSame(kept(await post(reversed)), kept(first), 'with its fields in another order')
        const creates = `/audit?resource_id=${first.json().id ?? first.json().name}&order=asc`
        const entries = (await send('GET', creates)).json()
        t.equal(
          entries.filter(({ action }: { action: string }) => /create$/.test(action)).length,
          1
        )
      })

    t.test('POST /users too, whose password goes nowhere else', async (t) => {
      const email = `${randomUUID()}@example.com`
      const body = { name: 'U', email: email.toUpperCase(), password: 'a good password' }
      const post = repeatable(send, '/users', body)
      const first = await post()
      t.equal(first.statusCode, 201)
      await send('PATCH', `/users/${first.json().id}`, { name: 'Changed' })
      t.strictSame(kept(await post()), kept(first))
      t.equal((await post({ ...body, password: 'another password' })).statusCode, 422)
      const login = { email, password: body.password }
      t.equal((await api.send('POST', '/auth/login', login)).statusCode, 200)
    })

    t.test('of 50 at once one creates, and all are answered alike', async (t) => {
      const person = { name: 'U', password: 'a good password' }
      const others = [
        { url: '/users', body: { ...person, email: `${randomUUID()}@example.com` } },
        { url: '/secrets', body: { name: 'AT_ONCE', value: 'hidden' } },
        { url: '/api-keys', body: { name: 'K' } }
      ]
      const chosen = ({ body }: { readonly body: object }) => 'id' in body || 'value' in body
      const all = [...creations.filter((each) => !chosen(each)), ...others]
      for (const { url, body } of all) {
        const rows = url.startsWith('/templates/') ? '/flows' : url
        const before = await countRows(admin, rows)
        const post = repeatable(send, url, body)
        const answers = await Promise.all(Array.from({ length: 50 }, () => post()))
        const made = answers.filter(({ statusCode }) => statusCode === 201)
        const first = made[0]?.json()
        if (url === '/api-keys') {
          t.equal(made.length, 1, 'a key is shown once')
          for (const answer of answers.filter((each) => each !== made[0]))
            t.match(answer.json(), { status: 409, code: 'already_created', id: first.id })
        } else {
          t.equal(made.length, 50, url)
          const different = new Set(answers.map((answer) => JSON.stringify(kept(answer))))
          t.equal(different.size, 1, 'one answer')
        }
        t.equal((await countRows(admin, rows)) - before, 1, 'one row')
        const entries = `/audit?resource_id=${encodeURIComponent(first.id ?? first.name)}`
        t.equal(await countRows(admin, entries), 1, 'one audit entry')
      }
      t.comment(`${50 * all.length} requests on ${on.kind}: ${all.length} rows and audit entries`)
    })

    t.test('the same key of others, and for others, is another key', async (t) => {
      const key = randomUUID()
      const editor = await api.person(admin, 'editor')
      const stranger = await api.register()
      const ids = []
      for (const person of [admin, editor, stranger])
        for (const url of ['/flows', '/templates']) {
          const answer = await repeatable(person.send, url, { name: 'N' }, key)()
          t.equal(answer.statusCode, 201, url)
          ids.push(answer.json().id)
        }
      t.equal(new Set(ids).size, 6)
    })

    t.test('another request with the key is refused', async (t) => {
      const key = randomUUID()
      await send('PUT', '/flows/g', { name: 'G' })
      await repeatable(send, '/flows/f/executions', { input: { a: 1 } }, key)()
      for (const [url, body] of [
        ['/flows/f/executions', { input: { a: 2 } }],
        ['/flows/f/executions', { input: { b: 1 } }],
        ['/flows/f/executions', { input: [['a', 1]] }],
        ['/flows/f/executions', {}],
        ['/flows/g/executions', { input: { a: 1 } }]
      ] as const) {
        const answer = await repeatable(send, url, body, key)()
        t.match([answer.statusCode, answer.json().code], [422, 'idempotency_key_reused'])
      }
    })

    t.test('what fails is not kept', async (t) => {
      const body = { name: 'Late', template_id: randomUUID() }
      const post = repeatable(send, '/flows', body)
      t.equal((await post()).json().code, 'reference_not_found')
      await send('PUT', `/templates/${body.template_id}`, { name: 'T' })
      t.equal((await post()).statusCode, 201)
      const taken = repeatable(send, '/flows', { id: 'f', name: 'F' })
      for (const answer of [await taken(), await taken()])
        t.match([answer.statusCode, answer.json().code], [409, 'already_exists'])
    })

    t.test('a change whose outcome was lost is made once', async (t) => {
      for (const isStored of [true, false]) {
        const name = randomUUID()
        const post = repeatable(send, '/templates', { id: name, name })
        const lost = await troubled.trouble(losingAnswers(sound, isStored), post)
        t.match([lost.statusCode, lost.json().code], [503, 'outcome_unknown'])
        t.equal((await post()).statusCode, 201)
        t.equal(await countRows(admin, `/audit?resource_id=${name}`), 1, 'one audit entry')
      }
    })

    t.test('where only the answer of a commit was lost, the record has it', async (t) => {
      const post = repeatable(send, '/flows', { name: randomUUID() })
      const { commit } = losingAnswers(sound, true)
      const answer = await troubled.trouble(commit ? { commit } : {}, post)
      t.equal(answer.statusCode, 201)
      t.strictSame(kept(await post()), kept(answer))
    })

    t.test('a repeat is known while the encryption key that was first is there', async (t) => {
      const old = { id: 'old', key: randomBytes(32) }
      const next = { id: 'next', key: randomBytes(32) }
      const { key } = (await send('POST', '/api-keys', { name: 'K', role: 'editor' })).json()
      const body = { name: randomUUID() }
      const idempotencyKey = randomUUID()
      const post = async (...keys: [EncryptionKey, ...EncryptionKey[]]) => {
        const { as } = await testApi(t, { on, storage, keyring: createKeyring(keys) })
        return repeatable(as(key), '/flows', body, idempotencyKey)()
      }
      const first = await post(old)
      t.equal(first.statusCode, 201)
      t.strictSame(kept(await post(next, old)), kept(first))
      t.equal((await post(next)).json().code, 'idempotency_key_reused')
    })

    t.test('a record that is over counts no more', async (t) => {
      const post = repeatable(send, '/flows', { name: randomUUID() })
      const first = (await post()).json()
      await endRecords(storage, admin)
      const second = await post()
      t.not(second.json().id, first.id)
      t.strictSame(kept(await post()), kept(second))

      const postChosen = repeatable(send, '/flows', { id: randomUUID(), name: 'F' })
      await postChosen()
      await endRecords(storage, admin)
      t.equal((await postChosen()).json().code, 'already_exists', 'and answers nothing')

      const email = `${randomUUID()}@example.com`
      const body = { name: 'U', email, password: 'a good password' }
      const postUser = repeatable(send, '/users', body)
      const user = (await postUser()).json()
      await send('PATCH', `/users/${user.id}`, { email: `${randomUUID()}@example.com` })
      await endRecords(storage, admin)
      t.equal((await postUser()).statusCode, 201, 'the address is free, and the id is another')
    })

    t.test('of two at once in its place one creates', async (t) => {
      const post = repeatable(send, '/flows', { name: randomUUID() })
      await post()
      await endRecords(storage, admin)
      let first: LightMyRequestResponse | undefined
      const meanwhile = async () => {
        first = await post()
      }
      const second = await troubled.trouble(overtaken(sound, meanwhile), post)
      t.strictSame(kept(second), kept(first as LightMyRequestResponse))
    })

    t.test('one that is pruned at the moment of its end is in nobody’s way', async (t) => {
      const person = await api.register()
      const post = repeatable(person.send, '/flows', { name: 'F' })
      await post()
      await endRecords(storage, person)
      const meanwhile = () => pruneRecords(sound, person)
      const answer = await troubled.trouble(overtaken(sound, meanwhile), post)
      t.equal(answer.statusCode, 201, answer.body)
    })

    t.test('registering is not answered twice, since its answer is a credential', async (t) => {
      const email = `${randomUUID()}@Example.com`
      const password = 'correct horse'
      const body = { tenant_name: randomUUID(), name: 'Ada', email, password }
      const post = repeatable(api.send, '/auth/register', body)
      const answers = await Promise.all(Array.from({ length: 50 }, () => post()))
      const first = answers.find(({ statusCode }) => statusCode === 201) as LightMyRequestResponse
      const { id } = first.json().user
      const others = answers.filter((answer) => answer !== first)
      for (const answer of [...others, await post()])
        t.match(answer.json(), { status: 409, code: 'already_created', id, detail: /: sign in\.$/ })
      const other = await post({ ...body, password: 'another password' })
      t.equal(other.json().code, 'idempotency_key_reused')
      const added = await api.as(first.json().token)('GET', '/audit')
      t.equal(added.json().length, 2, 'one tenant and one user')
      t.comment(`51 registrations on ${on.kind}: one tenant, one user, two audit entries`)
    })

    t.test('a registration whose outcome was lost can be used', async (t) => {
      for (const isStored of [true, false]) {
        const login = { email: `${randomUUID()}@example.com`, password: 'correct horse' }
        const body = { tenant_name: randomUUID(), name: 'Ada', ...login }
        const post = repeatable(api.send, '/auth/register', body)
        const lost = await troubled.trouble(losingAnswers(sound, isStored), post)
        t.equal(lost.json().code, 'outcome_unknown')
        t.equal((await post()).statusCode, isStored ? 409 : 201)
        t.equal((await api.send('POST', '/auth/login', login)).statusCode, 200)
      }
    })

    t.test('a user made again when the record is over has nothing of the first', async (t) => {
      const login = { email: `${randomUUID()}@example.com`, password: 'a good password' }
      const post = repeatable(send, '/users', { name: 'Carol', role: 'admin', ...login })
      const first = (await post()).json()
      const { token } = (await api.send('POST', '/auth/login', login)).json()
      const { key } = (await api.as(token)('POST', '/api-keys', { name: 'K' })).json()
      t.equal((await send('DELETE', `/users/${first.id}`)).statusCode, 204)
      await endRecords(storage, admin)
      const again = await post()
      t.equal(again.statusCode, 201)
      t.not(again.json().id, first.id)
      t.equal((await api.as(key)('GET', '/flows')).statusCode, 401)
    })

    t.test('records hold no password, no token and no hidden column', async (t) => {
      const { rows } = await storage.list(
        { resource: idempotencyKeys, tenant: await tenantOf(storage, admin) },
        { limit: 1000 }
      )
      t.ok(rows.length > 5)
      t.notMatch(JSON.stringify(rows), /hidden|good password|\$argon2|ciphertext|key_id|eyJ/)
    })
  })

t.test('a repeat is known for as many hours as are set', async (t) => {
  const api = await testApi(t, { env: { IDEMPOTENCY_TTL_HOURS: '2' } })
  const admin = await api.register()
  // Unlike the token it does not end meanwhile.
  const { key } = (await admin.send('POST', '/api-keys', { name: 'K', role: 'editor' })).json()
  const post = repeatable(api.as(key), '/flows', { name: 'F' })
  const first = (await post()).json()
  passTime(t, 119 * 60_000)
  t.equal((await post()).json().id, first.id)
  passTime(t, 2 * 60_000)
  t.not((await post()).json().id, first.id)
})

t.test('every POST that creates takes an Idempotency-Key, and is tried above', async (t) => {
  const { app } = await testApi(t)
  const { paths } = (await app.inject('/api/openapi.json')).json()
  const creating = Object.keys(paths).filter((path) => paths[path].post?.responses[201])
  const taking = creating.filter((path) =>
    JSON.stringify(paths[path].post.parameters).includes('/IdempotencyKey')
  )
  t.strictSame(taking, creating)
  const tried = [...creations.map(({ url }) => url), '/users', '/api-keys', '/auth/register']
  const patterns = creating.map((path) => new RegExp(`^${path.replace(/\{id\}/, '[^/]+')}$`))
  for (const pattern of patterns)
    t.ok(
      tried.some((url) => pattern.test(`/api${url}`)),
      `${pattern}`
    )
})

t.test(
  'a malformed Idempotency-Key is refused, and ignored where nothing is created',
  async (t) => {
    const { send } = await (await testApi(t)).register()
    for (const key of ['', 'x'.repeat(256), 'ключ', 'é', 'a\tb']) {
      const answer = await send('POST', '/flows', { name: 'F' }, { 'idempotency-key': key })
      t.match(answer.json(), {
        status: 400,
        code: 'validation_failed',
        errors: [{ in: 'headers', pointer: '/idempotency-key' }]
      })
      const patched = await send('PATCH', '/users/me', { name: 'N' }, { 'idempotency-key': key })
      t.equal(patched.statusCode, 200)
    }
    for (const key of ['x'.repeat(255), ' !"#~', '0']) {
      const answer = await send('POST', '/flows', { name: 'F' }, { 'idempotency-key': key })
      t.equal(answer.statusCode, 201, key)
    }
  }
)

t.test(
  'where accounts are kept elsewhere, a repeat goes on with the account it made',
  async (t) => {
    const storage = await (testStorages[0] as (typeof testStorages)[0]).open(t)
    const troubled = troubledStorage(storage)
    const { identity, accounts } = await identityElsewhere(troubled.storage)
    const api = await testApi(t, { storage: troubled.storage, identity })
    const { send } = await api.register()

    for (const [by, url, more] of [
      [api.send, '/auth/register', { tenant_name: 'New' }],
      [send, '/users', {}]
    ] as const) {
      const email = `${randomUUID()}@example.com`
      const body = { name: 'N', email, password: 'a good password', ...more }
      const post = repeatable(by, url, body)
      const lost = await troubled.trouble(brokenCommit('outcome_unknown'), post)
      t.equal(lost.statusCode, 503, url)
      t.ok(accounts.has(email), 'the account is left: the row may be there')
      const made = await post()
      t.equal(made.statusCode, 201, made.body)
      const { id } = made.json().user ?? made.json()
      t.equal(accounts.get(email), id, 'the account of the first try')
    }
  }
)

/** Commits, or does not, and is gone before it says so. */
function losingAnswers(storage: Storage, isStored: boolean): Partial<Storage> {
  let isGone = false
  const commit = async (...changes: Parameters<Storage['commit']>) => {
    if (isStored) await storage.commit(...changes)
    isGone = true
    throw new StorageError('outcome_unknown')
  }
  const get: Storage['get'] = async (from, key) => {
    if (isGone) throw new StorageError('unavailable')
    return storage.get(from, key)
  }
  return { commit: commit as Storage['commit'], get }
}

/** Lets the time of all records of a tenant run out. */
function endRecords(storage: Storage, person: Person): Promise<void> {
  const set = { expires_at: new Date(0).toISOString() }
  return changeRecords(storage, person, { op: 'update', set })
}

function pruneRecords(storage: Storage, person: Person): Promise<void> {
  return changeRecords(storage, person, { op: 'delete' })
}

async function changeRecords(
  storage: Storage,
  person: Person,
  change: { op: 'delete' } | { op: 'update'; set: { expires_at: string } }
): Promise<void> {
  const tenant = await tenantOf(storage, person)
  const { rows } = await storage.list({ resource: idempotencyKeys, tenant }, { limit: 1000 })
  await storage.commit({
    tenant,
    changes: rows.map(({ id: key }) => ({ resource: idempotencyKeys, key, ...change }))
  })
}

async function tenantOf(storage: Storage, { id }: Person): Promise<TenantId> {
  const user = await storage.get({ resource: users, tenant: ACROSS_TENANTS }, id)
  return user?.tenant_id as TenantId
}

/** Keeps accounts, by address, as another service does: they stay when a commit fails. */
async function identityElsewhere(storage: Storage) {
  const local = await openLocalIdentity({ storage, secret: randomUUID(), hasher: cheapHasher })
  const accounts = new Map<string, string>()
  const identity: Identity = {
    ...local,
    service: 'elsewhere',
    async createAccount(account) {
      const { id, email } = account
      if ((accounts.get(email) ?? id) !== id) throw new AccountError('email_taken', 'It is taken.')
      accounts.set(email, id)
      return local.createAccount(account)
    }
  }
  return { identity, accounts }
}
