import t from 'tap'
import { testApi } from '../support/api.js'
import { logLines } from '../support/log-lines.js'

t.test('a request has one line: its route, not its address, and how long it took', async (t) => {
  const { stream, lines } = logLines()
  const api = await testApi(t, { logger: { level: 'info', stream } })
  const { send } = await api.register()
  lines.length = 0
  const answer = await send('GET', '/flows/flow_none')
  await send('GET', '/flows')
  await send('GET', '/nowhere')

  const [first, ...others] = lines
    .map((line) => JSON.parse(line))
    .filter(({ msg }) => msg === 'request')
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
  for (const { duration_us: microseconds } of [first, ...others])
    t.ok(Number.isInteger(microseconds) && Number(microseconds) > 0, `${microseconds} µs`)
})
