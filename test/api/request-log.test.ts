import { Writable } from 'node:stream'
import t from 'tap'
import { testApi } from '../support/api.js'

t.test('a request has one line: its route, not its address, and how long it took', async (t) => {
  const lines: Record<string, unknown>[] = []
  const stream = new Writable({
    write(line, _encoding, done) {
      lines.push(JSON.parse(String(line)))
      done()
    }
  })
  const api = await testApi(t, { logger: { level: 'info', stream } })
  const { send } = await api.register()
  lines.length = 0
  const answer = await send('GET', '/flows/flow_none')
  await send('GET', '/flows')
  await send('GET', '/nowhere')

  const [first, ...others] = lines.filter(({ msg }) => msg === 'request')
  t.match(first, {
    level: 30,
    reqId: answer.headers['x-request-id'],
    method: 'GET',
    route: '/api/flows/:id',
    status: 404,
    ip: '127.0.0.1'
  })
  t.strictSame(
    others.map(({ route, status }) => [route, status]),
    [
      ['/api/flows', 200],
      [undefined, 404]
    ]
  )
  // Hundredths of a millisecond made resident memory grow.
  for (const { duration_us: microseconds } of [first, ...others] as typeof lines)
    t.ok(Number.isInteger(microseconds) && Number(microseconds) > 0, `${microseconds} µs`)
})
