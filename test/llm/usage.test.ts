import { mock } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import t from 'tap'
import { StorageError } from '../../adapters/storage/errors.js'
import {
  ACROSS_TENANTS,
  type Storage,
  type Stored,
  type TenantId
} from '../../adapters/storage/port.js'
import { uuid } from '../../adapters/uuid.js'
import { llmUsage } from '../../schemas/llm-usage.js'
import { users } from '../../schemas/users.js'
import { allRows } from '../../src/all-rows.js'
import { createUsage, type UsedCall } from '../../src/llm/usage.js'
import { type Person, testApi } from '../support/api.js'
import { llmApi } from '../support/llm-api.js'
import {
  answerWith,
  refuseWith,
  sendCompletion,
  startUpstream,
  tokens
} from '../support/llm-upstream.js'
import { type Teardown, testStorages } from '../support/storages.js'
import { brokenCommit, troubledStorage } from '../support/troubled-storage.js'

const user = '019b76da-a800-7000-8000-000000000001'

/** A storage with one tenant, and its rows of usage. */
async function usageOn(t: Teardown, open = testStorages[0]?.open) {
  if (!open) throw new Error('there is no storage')
  const storage = await open(t)
  const { register } = await testApi(t, { storage })
  const person = await register()
  const tenant = await tenantOf(storage, person)
  const rows = () => allRowsOf(storage, tenant)
  const call = (change: Partial<UsedCall> = {}): UsedCall => ({
    tenant,
    user,
    model: 'm',
    failed: false,
    promptTokens: 1,
    completionTokens: 2,
    ...change
  })
  return { storage, tenant, rows, call, send: person.send }
}

/** Calls that one instance counts and writes on a day. */
async function useOn(storage: Storage, day: string, calls: readonly UsedCall[]): Promise<void> {
  const usage = createUsage({ storage, warn: () => {}, now: () => new Date(`${day}T12:00:00Z`) })
  for (const call of calls) usage.add(call)
  await usage.close()
}

async function allRowsOf(storage: Storage, tenant: TenantId) {
  const rows: Stored<typeof llmUsage>[] = []
  for await (const row of allRows(storage, { resource: llmUsage, tenant })) rows.push(row)
  return rows
}

async function tenantOf(storage: Storage, { id }: Person): Promise<TenantId> {
  const row = await storage.get({ resource: users, tenant: ACROSS_TENANTS }, id)
  return row?.tenant_id as TenantId
}

for (const { kind, open } of testStorages)
  t.test(`totals on ${kind}`, async (t) => {
    const { storage, rows, call, send } = await usageOn(t, open)
    let now = new Date('2026-01-30T23:00:00Z')
    const warnings: string[] = []
    const options = {
      storage,
      warn: (_error: unknown, message: string) => warnings.push(message),
      now: () => now
    }
    const [one, two] = [createUsage(options), createUsage(options)]
    one.add(call())
    one.add(call({ failed: true }))
    one.add(call({ model: 'n' }))
    two.add(call())
    t.equal((await rows()).length, 0, 'a call costs no commit')
    await Promise.all([one.flush(), two.flush()])
    t.equal((await rows()).length, 3, 'a row for each instance and model')
    one.add(call())
    now = new Date('2026-01-31T01:00:00Z')
    one.add(call())
    await one.flush()
    // The clock is put right, after the totals of the day before were written and forgotten.
    now = new Date('2026-01-30T23:59:59Z')
    one.add(call())
    await Promise.all([one.close(), two.close()])
    t.equal((await rows()).length, 4)

    const report = async (query = '') =>
      (await send('GET', `/llm/usage?since=2026-01-30&until=2026-01-31${query}`)).json()
    const day30 = { day: '2026-01-30', user_id: user }
    const sums = [
      { day: '2026-01-31', model: 'm', user_id: user, ...totals(2, 0) },
      { ...day30, model: 'm', ...totals(4, 1) },
      { ...day30, model: 'n', ...totals(1, 0) }
    ]
    t.same(await report(), sums)
    t.same(await report('&model=n'), [sums[2]])
    t.same(await report(`&user_id=${user.replace(/1$/, '2')}`), [])
    const first = await send('GET', '/llm/usage?since=2026-01-30&until=2026-01-30')
    t.same(first.json(), sums.slice(1))
    t.strictSame(warnings, [])
  })

function totals(calls: number, errors: number) {
  return { calls, errors, prompt_tokens: calls, completion_tokens: 2 * calls }
}

t.test('a report is for admins, of their own tenant, over a period that makes sense', async (t) => {
  // Noon, so that no other day begins while it runs.
  const day = new Date().toISOString().slice(0, 10)
  mock.timers.enable({ apis: ['Date'], now: Date.parse(`${day}T12:00:00Z`) })
  t.teardown(() => mock.timers.reset())
  const upstream = await startUpstream(t, answerWith('Hello!'))
  const { admin, as, person, register } = await llmApi(t, upstream.url, {
    env: { LLM_CACHE_ENABLED: 'true' }
  })
  const editor = await person(admin, 'editor')
  await editor.send('POST', '/llm/complete', { prompt: 'Hi', model: 'm' })
  await editor.send('POST', '/llm/complete', { prompt: 'Hi', model: 'm' })
  await editor.send('POST', '/llm/stream', { prompt: 'Hi', model: 'm' })
  upstream.answer = refuseWith(500)
  await editor.send('POST', '/llm/stream', { prompt: 'Hi', model: 'm' })
  const report = await admin.send('GET', '/llm/usage')
  t.strictSame(
    report.json(),
    [
      {
        day,
        model: 'm',
        user_id: editor.id,
        calls: 4,
        errors: 1,
        prompt_tokens: 2 * tokens.prompt_tokens,
        completion_tokens: 2 * tokens.completion_tokens
      }
    ],
    'a hit costs no tokens, and what is under ten seconds old is there'
  )
  const { id, key } = (await admin.send('POST', '/api-keys', { name: 'K', role: 'editor' })).json()
  await as(key)('POST', '/llm/complete', { prompt: 'Hi', model: 'm' })
  const ofKey = (await admin.send('GET', `/llm/usage?user_id=${id}`)).json()
  t.match(ofKey, [{ user_id: id, calls: 1 }], 'an API key is counted by itself')
  t.equal((await editor.send('GET', '/llm/usage')).statusCode, 403)
  t.same((await (await register()).send('GET', '/llm/usage')).json(), [])
  for (const query of [
    'since=yesterday',
    'since=2026-02-30',
    'until=2026-02-30',
    'until=2026-99-99',
    'since=0000-01-01&until=0000-02-01',
    'until=9999-12-31',
    'since=2026-02-02&until=2026-02-01',
    'since=2024-01-01&until=2026-01-01'
  ])
    t.equal((await admin.send('GET', `/llm/usage?${query}`)).statusCode, 400, query)
})

t.test('a report of no first day begins 30 days before its last', async (t) => {
  const { storage, call, send } = await usageOn(t)
  for (const day of ['2025-12-31', '2026-01-01', '2026-01-31', '2026-02-01']) {
    const usage = createUsage({ storage, warn: () => {}, now: () => new Date(`${day}T12:00:00Z`) })
    usage.add(call())
    await usage.close()
  }
  const report = await send('GET', '/llm/usage?until=2026-01-31')
  t.equal(report.statusCode, 200)
  t.match(report.json(), [{ day: '2026-01-31' }, { day: '2026-01-01' }])
  t.equal(report.json().length, 2)
  t.equal((await send('GET', '/llm/usage?since=2025-01-30&until=2026-01-31')).statusCode, 200)
  t.match((await send('GET', '/llm/usage?since=2025-01-29&until=2026-01-31')).json(), {
    detail: /366 days/
  })
})

t.test('a report may be of the first days and of the last', async (t) => {
  const { send } = await usageOn(t)
  for (const query of [
    'until=0001-01-01',
    'until=0001-01-05',
    'since=9999-12-30&until=9999-12-30'
  ]) {
    const report = await send('GET', `/llm/usage?${query}`)
    t.equal(report.statusCode, 200, query)
    t.strictSame(report.json(), [], query)
  }
})

t.test('what is no number of tokens is none, to the caller and in the totals', async (t) => {
  const odd = { prompt_tokens: 1.5, completion_tokens: -2, total_tokens: '7' }
  const upstream = await startUpstream(t, (request) => sendCompletion(request, 'Hello!', odd))
  const { admin } = await llmApi(t, upstream.url)
  const answer = await admin.send('POST', '/llm/complete', { prompt: 'Hi' })
  const none = { prompt_tokens: 0, completion_tokens: 0 }
  t.strictSame(answer.json().usage, { ...none, total_tokens: 0 })
  t.match((await admin.send('GET', '/llm/usage')).json(), [{ calls: 1, ...none }])
})

t.test('totals survive a storage that is away, and one whose answer is lost', async (t) => {
  const { storage, rows, call } = await usageOn(t)
  let fault: 'before' | 'after' | undefined = 'before'
  const shaky = {
    ...storage,
    commit: async (commit: Parameters<Storage['commit']>[0]) => {
      if (fault === 'before') throw new StorageError('unavailable')
      const stored = await storage.commit(commit)
      if (fault === 'after') throw new StorageError('outcome_unknown')
      return stored
    }
  } as Storage
  const warnings: string[] = []
  const usage = createUsage({ storage: shaky, warn: (_error, message) => warnings.push(message) })
  usage.add(call())
  await usage.flush()
  t.equal((await rows()).length, 0)
  fault = 'after'
  await usage.flush()
  t.equal(warnings.length, 2)
  usage.add(call())
  fault = undefined
  await usage.flush()
  t.match(await rows(), [{ calls: 2, prompt_tokens: 2 }], 'counted once')
  fault = 'after'
  usage.add(call())
  await usage.flush()
  fault = undefined
  await usage.close()
  t.match(await rows(), [{ calls: 3 }])
})

t.test(
  'rows that are gone are made again, and those of a tenant that is gone are not',
  async (t) => {
    const { storage, tenant, rows, call } = await usageOn(t)
    const warnings: unknown[] = []
    const usage = createUsage({ storage, warn: (error) => warnings.push(error) })
    usage.add(call())
    await usage.flush()
    const [row] = await rows()
    await storage.commit({
      tenant,
      changes: [{ op: 'delete', resource: llmUsage, key: row?.id as string }]
    })
    usage.add(call())
    usage.add(call({ tenant: '019b76da-a800-7000-8000-00000000dead' as TenantId }))
    await usage.close()
    t.match(await rows(), [{ calls: 2 }])
    t.strictSame(warnings, [])
  }
)

t.test('names that somebody makes up do not fill the table', async (t) => {
  const { storage, rows, call } = await usageOn(t)
  let now = new Date('2026-01-30T23:00:00Z')
  const usage = createUsage({ storage, warn: () => {}, now: () => now })
  for (let n = 0; n < 300; n++) usage.add(call({ model: `model-${n}` }))
  await usage.flush()
  const all = await rows()
  t.equal(all.length, 101)
  t.equal(all.find(({ model }) => model === 'other')?.calls, 200)
  now = new Date('2026-01-31T01:00:00Z')
  usage.add(call({ model: 'model-300' }))
  await usage.close()
  t.ok(
    (await rows()).some(({ model }) => model === 'model-300'),
    'nor does the day before'
  )
})

t.test('nor do names that somebody makes up with many API keys', async (t) => {
  const { storage, rows, call } = await usageOn(t)
  let now = new Date('2026-01-30T23:00:00Z')
  const usage = createUsage({ storage, warn: () => {}, now: () => now })
  const keys = Array.from({ length: 30 }, () => uuid())
  for (const user of keys)
    for (let n = 0; n < 100; n++) usage.add(call({ user, model: `model-${n}` }))
  await usage.flush()
  const day30 = await rows()
  t.equal(day30.length, 2000 + 10 * (10 + 1), 'a few names of each are known all the same')
  const others = day30.filter(({ model }) => model === 'other')
  t.strictSame(others.map(({ user_id }) => user_id).sort(), keys.slice(20).sort())
  t.ok(others.every(({ calls }) => calls === 90))
  now = new Date('2026-01-31T01:00:00Z')
  usage.add(call({ user: keys[29] as string, model: 'model-0' }))
  await usage.close()
  t.match((await rows()).at(-1), { day: '2026-01-31T00:00:00.000Z', model: 'model-0' })
})

t.test('what could not be written of a day that is over is written later', async (t) => {
  const { storage, rows, call } = await usageOn(t)
  const { storage: shaky, trouble } = troubledStorage(storage)
  let now = new Date('2026-01-30T23:59:59Z')
  const usage = createUsage({ storage: shaky, warn: () => {}, now: () => now })
  usage.add(call())
  now = new Date('2026-01-31T00:00:00Z')
  usage.add(call())
  await trouble(brokenCommit('unavailable'), () => usage.flush())
  await usage.close()
  t.equal((await rows()).length, 2)
})

t.test('a report is by day, the newest first, then by model and user', async (t) => {
  const { storage, call, send } = await usageOn(t)
  const [first, second] = [uuid(), uuid()].sort() as [string, string]
  for (const day of ['2026-01-30', '2026-01-31'])
    await useOn(storage, day, [
      call({ model: 'n', user: first }),
      call({ model: 'm', user: second }),
      call({ model: 'm', user: first })
    ])
  const report = await send('GET', '/llm/usage?since=2026-01-30&until=2026-01-31')
  const order = (day: string) => [
    { day, model: 'm', user_id: first },
    { day, model: 'm', user_id: second },
    { day, model: 'n', user_id: first }
  ]
  t.match(report.json(), [...order('2026-01-31'), ...order('2026-01-30')])
})

t.test('a report of very many totals goes on where Link says, in whole days', async (t) => {
  const { storage, call, send } = await usageOn(t)
  async function add(day: string, users: number): Promise<void> {
    const others = Array.from({ length: users - 1 }, () => call({ user: uuid() }))
    await useOn(storage, day, [...others, call()])
  }
  await add('2026-01-29', 2)
  await add('2026-01-30', 6000)
  await add('2026-01-31', 4000)
  const report = (query: string) => send('GET', `/llm/usage?${query}`)
  const daysOf = (sums: { day: string }[]) => [...new Set(sums.map(({ day }) => day))]

  const whole = await report('since=2026-01-30&until=2026-01-31')
  t.equal(whole.json().length, 10_000)
  t.equal(whole.headers.link, undefined, 'all of it')

  const first = await report('until=2026-01-31')
  t.strictSame(daysOf(first.json()), ['2026-01-31', '2026-01-30'])
  const link = '</api/llm/usage?until=2026-01-29&since=2026-01-01>; rel="next"'
  t.equal(first.headers.link, link)
  const last = await report('until=2026-01-29&since=2026-01-01')
  t.match(last.json(), [{ day: '2026-01-29' }, { day: '2026-01-29' }])
  t.equal(last.headers.link, undefined)

  await add('2026-01-31', 6001)
  const newest = await report('until=2026-01-31')
  t.strictSame(daysOf(newest.json()), ['2026-01-31'], 'a day that does not fit is left out whole')
  t.equal(newest.json().length, 10_000)
  t.equal(newest.headers.link, link.replace('01-29', '01-30'))

  await add('2026-01-31', 2)
  const refused = await report('until=2026-01-31')
  t.match(refused.json(), {
    status: 400,
    errors: [
      {
        pointer: '/until',
        detail: /2026-01-31, which alone has more than 10000 totals: .* or for the days before it$/
      }
    ]
  })
  const ofUser = await report(`until=2026-01-31&user_id=${user}`)
  t.match(ofUser.json(), [{ calls: 3 }, { calls: 1 }, { calls: 1 }])
})

t.test('totals are written every ten seconds, where there are new ones', async (t) => {
  const { storage, rows, call } = await usageOn(t)
  let commits = 0
  const counting = {
    ...storage,
    commit: (commit: Parameters<Storage['commit']>[0]) => {
      commits++
      return storage.commit(commit)
    }
  } as Storage
  mock.timers.enable({ apis: ['setInterval'] })
  t.teardown(() => mock.timers.reset())
  const usage = createUsage({ storage: counting, warn: () => {} })
  usage.add(call())
  mock.timers.tick(9_999)
  await setImmediate()
  t.equal(commits, 0)
  mock.timers.tick(1)
  while ((await rows()).length === 0) await setImmediate()
  mock.timers.tick(10_000)
  await usage.close()
  t.equal(commits, 1)
})
