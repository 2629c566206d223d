import { once } from 'node:events'
import { type AddressInfo, connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { testApi } from '../support/api.js'
import { logLines } from '../support/log-lines.js'
import { exchangeRaw } from '../support/raw-http.js'
import { memory } from '../support/storages.js'
import { troubledStorage } from '../support/troubled-storage.js'

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

t.test('one that is refused in the middle has the status of its answer', async (t) => {
  const { stream, lines } = logLines()
  const env = { REQUEST_TIMEOUT_MS: '300', HEADERS_TIMEOUT_MS: '300' }
  const { app } = await testApi(t, { env, logger: { level: 'info', stream } })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  const head = 'POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n'
  for (const [rest, status] of [
    ['Content-Length: 100\r\n\r\n{', 408],
    ['Transfer-Encoding: chunked\r\n\r\nzz\r\n', 400]
  ] as const) {
    lines.length = 0
    const [answer] = await exchangeRaw(port, head + rest, { halfClose: false })
    t.equal(answer?.statusCode, status)
    while (!lines.length) await sleep(5)
    t.match(
      lines.map((line) => JSON.parse(line)),
      [{ route: '/api/auth/login', status }]
    )
  }
})

t.test('so has one whose client leaves before the answer', async (t) => {
  const { stream, lines } = logLines()
  const troubled = troubledStorage(await memory.open(t))
  const { storage } = troubled
  const api = await testApi(t, { storage, logger: { level: 'info', stream } })
  const { token } = await api.register()
  await api.app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = api.app.server.address() as AddressInfo
  const connected = once(api.app.server, 'connection')
  const client = connect(port, '127.0.0.1')
  const [connection] = await connected
  let answer = () => {}
  const list = () =>
    new Promise((resolve) => {
      answer = () => resolve({ rows: [], next: null })
      client.destroy()
    })
  lines.length = 0
  const head = `GET /api/flows HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\n\r\n`
  await troubled.trouble({ list: list as never }, async () => {
    client.write(head)
    await once(connection, 'close')
    answer()
    for (let turn = 0; turn < 10; turn++) await new Promise(setImmediate)
  })
  const told = lines.map((line) => JSON.parse(line)).filter(({ msg }) => msg === 'request')
  t.match(told, [{ route: '/api/flows', status: 499, duration_us: Number, ip: '127.0.0.1' }])
  t.equal(told.length, 1)
})
