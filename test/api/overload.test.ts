import { EventEmitter, once } from 'node:events'
import { type AddressInfo, connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { type Send, testApi } from '../support/api.js'
import { llmApi } from '../support/llm-api.js'
import { beginStream, endStream, startUpstream } from '../support/llm-upstream.js'
import { logLines } from '../support/log-lines.js'
import { exchangeRaw } from '../support/raw-http.js'
import { memory } from '../support/storages.js'
import { troubledStorage } from '../support/troubled-storage.js'

/** Asks again until the answer is as wished: the test's own limit ends it otherwise. */
async function until(status: number, send: Send, url: string): Promise<void> {
  while ((await send('GET', url)).statusCode !== status) await sleep(5)
}

for (const limit of ['OVERLOAD_RSS_BYTES', 'OVERLOAD_HEAP_BYTES'])
  t.test(`beyond ${limit} requests are refused, and monitors answered`, async (t) => {
    const { stream, lines } = logLines()
    const api = await testApi(t, {
      env: { [limit]: '1' },
      logger: { level: 'warn', stream }
    })
    await until(503, api.send, '/ready')
    t.match((await api.send('GET', '/ready')).json(), {
      code: 'not_ready',
      detail: 'The server is overloaded.'
    })
    t.equal((await api.send('GET', '/health')).statusCode, 200)
    for (const [method, url] of [
      ['GET', '/flows'],
      ['POST', '/auth/login'],
      ['GET', '/nowhere']
    ] as const) {
      const answer = await api.app.inject({ method, url: `/api${url}` })
      t.match(answer.json(), { status: 503, code: 'overloaded' }, url)
      t.match(answer.headers, { 'retry-after': '1', 'x-request-id': /./ }, url)
      t.match(answer.headers['content-type'], 'application/problem+json', url)
    }
    t.equal(lines.length, 1, 'the log says it once in a while, and nothing else')
    t.match(lines[0], /"level":40,.*"measure":"(rss|heapUsed)Bytes","value":\d+,"refused":1/)
  })

t.test('while the event loop is held up requests are refused, and no longer', async (t) => {
  const { send } = await testApi(t, { env: { OVERLOAD_EVENT_LOOP_DELAY_MS: '300' } })
  await until(200, send, '/ready')
  const ends = Date.now() + 3000
  while (Date.now() < ends);
  await until(503, send, '/ready')
  const answer = await send('POST', '/auth/login', { email: 'a@example.com', password: 'x' })
  t.match(answer.json(), { code: 'overloaded' })
  await until(200, send, '/ready')
})

t.test('0 turns a limit off', async (t) => {
  const off = { OVERLOAD_EVENT_LOOP_DELAY_MS: '0', OVERLOAD_HEAP_BYTES: '0' }
  const { app, send } = await testApi(t, { env: off })
  while (app.memoryUsage().rssBytes === 0) await sleep(50)
  t.equal((await send('GET', '/ready')).statusCode, 200)
})

t.test('a request that does not arrive in time is ended, and cost nothing', async (t) => {
  const troubled = troubledStorage(await memory.open(t))
  const env = { HEADERS_TIMEOUT_MS: '200', REQUEST_TIMEOUT_MS: '400' }
  const api = await testApi(t, { storage: troubled.storage, env })
  const admin = await api.register()
  await api.app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = api.app.server.address() as AddressInfo
  const body = 'Content-Type: application/json\r\nContent-Length: 30\r\n\r\n{"name":'
  const headers = `POST /api/flows HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${admin.token}\r\n`
  const begun = {
    'nothing at all': '',
    'the request line': 'GET /api/hea',
    headers,
    body: headers + body,
    chunks: `${headers}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n`
  }
  let commits = 0
  const commit: typeof troubled.storage.commit = (...given) => {
    commits++
    return troubled.storage.commit(...given)
  }
  await troubled.trouble({ commit }, () =>
    Promise.all(
      Object.entries(begun).map(async ([what, bytes]) => {
        const answers = await exchangeRaw(port, bytes, { halfClose: false })
        t.equal(answers.length, 1, what)
        t.match(answers[0]?.json(), { status: 408, code: 'request_timeout' }, what)
      })
    )
  )
  t.equal(commits, 0)
})

t.test('bytes in time, one by one, do not keep a request open', async (t) => {
  const { app } = await testApi(t, { env: { HEADERS_TIMEOUT_MS: '500' } })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1')
  let answer = ''
  socket.setEncoding('utf8').on('data', (text) => {
    answer += text
  })
  socket.on('error', () => {})
  const closed = once(socket, 'close')
  socket.write('GET /api/health HTTP/1.1\r\nHost: x\r\nX-Slow: ')
  const dripping = setInterval(() => socket.write('a'), 20)
  await closed
  clearInterval(dripping)
  t.match(answer, /^HTTP\/1\.1 408 .+"code":"request_timeout"/s)
})

t.test('a reader that takes nothing of its answers is left', async (t) => {
  const env = { REQUEST_TIMEOUT_MS: '200', LLM_TIMEOUT_MS: '200', LLM_SILENCE_MS: '200' }
  const { app } = await testApi(t, { env })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1')
  t.teardown(() => socket.destroy())
  socket.on('error', () => {})
  const [accepted] = await once(app.server, 'connection')
  // More than the buffers of both ends have room for.
  socket
    .pause()
    .write('GET /api/docs/static/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(50))
  await once(accepted, 'close')
  t.ok(accepted.bytesWritten > 0)
})

t.test('a connection that waits for its next request too long is closed', async (t) => {
  const { app } = await testApi(t, { env: { KEEP_ALIVE_TIMEOUT_MS: '50' } })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  const request = 'GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n'
  t.match(await exchangeRaw(port, request, { halfClose: false }), [{ statusCode: 200 }])
})

t.test('what is no HTTP ends an answer that has begun, and is no part of it', async (t) => {
  const upstream = await startUpstream(t, beginStream)
  const api = await llmApi(t, upstream.url)
  const socket = connect(api.port, '127.0.0.1').setEncoding('utf8')
  const events = new EventEmitter()
  let received = ''
  socket.on('error', () => {})
  socket.on('data', (text) => {
    received += text
    events.emit('data')
  })
  const closed = once(socket, 'close')
  socket.write(
    `GET /api/llm/stream?prompt=Hi HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${api.admin.token}\r\n\r\n`
  )
  const asked = await upstream.received(0)
  if (!received) await once(events, 'data')
  socket.write('nonsense\r\n\r\n')
  await closed
  endStream(asked)
  t.match(received, /^HTTP\/1\.1 200 /)
  t.notMatch(received, 'HTTP/1.1 400')
})
