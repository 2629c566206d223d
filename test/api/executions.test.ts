import t from 'tap'
import { executionStatuses } from '../../schemas/executions.js'
import { testApi } from '../support/api.js'
import { testStorages } from '../support/storages.js'

/** The ways to each status, from queued. */
const ways: Readonly<Record<string, readonly string[]>> = {
  queued: [],
  running: ['running'],
  success: ['running', 'success'],
  failed: ['running', 'failed'],
  cancelled: ['running', 'cancelled']
}
const allowed = ['queued → running', 'running → success', 'running → failed', 'running → cancelled']

for (const on of testStorages)
  t.test(`executions on ${on.kind}`, { skip: on.skip }, async (t) => {
    const { send } = await (await testApi(t, { on })).register()
    await send('PUT', '/flows/f', { name: 'F' })
    const queue = async (input?: unknown) =>
      (await send('POST', '/flows/f/executions', { input })).json()

    t.test('an execution runs and keeps what came of it', async (t) => {
      const queued = await queue({ customer: 42 })
      t.match(queued, { flow_id: 'f', status: 'queued', started_at: null, finished_at: null })
      const running = await send('PATCH', `/executions/${queued.id}`, { status: 'running' })
      t.ok(running.json().started_at)
      t.equal(running.json().finished_at, null)
      const body = { status: 'success', output: { sent: [1, null] } }
      const done = await send('PATCH', `/executions/${queued.id}`, body)
      t.match(done.json(), { ...body, started_at: running.json().started_at, error: null })
      t.ok(done.json().finished_at >= done.json().started_at)
      t.strictSame((await send('GET', `/executions/${queued.id}`)).json(), done.json())
    })

    for (const from of executionStatuses)
      for (const to of executionStatuses) {
        const way = `${from} → ${to}`
        t.test(way, async (t) => {
          const { id } = await queue()
          for (const status of ways[from] ?? [])
            await send('PATCH', `/executions/${id}`, { status })
          const answer = await send('PATCH', `/executions/${id}`, { status: to })
          if (allowed.includes(way)) t.equal(answer.json().status, to)
          else t.match([answer.statusCode, answer.json().code], [409, 'invalid_transition'])
        })
      }

    t.test('of many that finish an execution at once, one does', async (t) => {
      const { id } = await queue()
      await send('PATCH', `/executions/${id}`, { status: 'running' })
      const answers = await Promise.all(
        ['success', 'failed', 'cancelled', 'success'].map((status) =>
          send('PATCH', `/executions/${id}`, { status })
        )
      )
      t.strictSame(answers.map(({ statusCode }) => statusCode).sort(), [200, 409, 409, 409])
    })

    t.test('executions are listed by flow, status and period', async (t) => {
      await send('PUT', '/flows/g', { name: 'G' })
      const mine = (await send('POST', '/flows/g/executions', {})).json()
      for (const url of ['/flows/g/executions', '/executions?flow_id=g'])
        t.strictSame((await send('GET', url)).json(), [mine], url)
      t.strictSame((await send('GET', '/flows/g/executions?status=running')).json(), [])
      t.strictSame((await send('GET', `/flows/g/executions?until=${mine.created_at}`)).json(), [])
      t.strictSame((await send('GET', `/flows/g/executions?since=${mine.created_at}`)).json(), [
        mine
      ])
      t.equal((await send('GET', '/flows/none/executions')).statusCode, 404)
      t.equal((await send('POST', '/flows/none/executions', {})).statusCode, 404)
    })

    t.test('deleting a flow deletes its executions', async (t) => {
      await send('PUT', '/flows/h', { name: 'H' })
      const { id } = (await send('POST', '/flows/h/executions', {})).json()
      await send('DELETE', '/flows/h')
      t.equal((await send('GET', `/executions/${id}`)).statusCode, 404)
      const { json } = await send('GET', `/audit?resource_id=${id}`)
      t.match(json(), [{ action: 'execution.create' }], 'the entry of the flow stands for it')
    })
  })
