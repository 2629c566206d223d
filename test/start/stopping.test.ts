import { once } from 'node:events'
import { Agent, get as httpGet } from 'node:http'
import { type AddressInfo, connect, createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import Database from '../../adapters/storage/better-sqlite3.js'
import { readEnvironment } from '../../src/configuration.js'
import { mostStoppingMs } from '../../src/stopping.js'
import { testApi } from '../support/api.js'
import { exchange, readAll, readEvents } from '../support/llm-api.js'
import { beginStream, endStream, sendPiece, startUpstream } from '../support/llm-upstream.js'
import { addressOf, startServer } from '../support/server.js'
import { type Teardown, temporaryFolder } from '../support/storages.js'

/** Asks again until the answer is as wished: the test's own limit ends it otherwise. */
async function until(ask: () => Promise<boolean>): Promise<void> {
  while (!(await ask())) await sleep(5)
}

async function startSignedIn(t: Teardown, env: Readonly<Record<string, string>> = {}) {
  const folder = temporaryFolder(t)
  const child = startServer(t, folder, { SQLITE_PATH: './app.db', ...env })
  const api = await addressOf(child)
  const answer = await fetch(`${api}/auth/register`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', connection: 'close' },
    body: JSON.stringify({
      tenant_name: 'Acme',
      name: 'Ada',
      email: 'ada@example.com',
      password: 'a password for this test'
    })
  })
  const { token } = (await answer.json()) as { token: string }
  const port = Number(new URL(api).port)
  const admin = { token } as Parameters<typeof exchange>[0]['admin']
  return { child, api, port, admin, token, file: join(folder, 'app.db') }
}

/** Nothing new gets in. */
async function isRefused(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1')
  try {
    await once(socket, 'connect')
    return false
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ECONNREFUSED'
  } finally {
    socket.destroy()
  }
}

/** How a request begins of whose body the rest may be long in coming. */
function postHead(path: string, token: string, length: number): string {
  return `POST /api${path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\nContent-Type: application/json\r\nContent-Length: ${length}\r\n\r\n`
}

t.test('it says that it is not ready while it still serves; a second signal ends it', async (t) => {
  const { child, api, token } = await startSignedIn(t, { SHUTDOWN_DELAY_MS: '600000' })
  t.equal((await fetch(`${api}/ready`)).status, 200)
  child.signal('SIGTERM')
  await until(async () => (await fetch(`${api}/ready`)).status === 503)
  t.match(await (await fetch(`${api}/ready`)).json(), {
    code: 'not_ready',
    detail: 'The server is stopping.'
  })
  const health = await fetch(`${api}/health`)
  t.match([health.status, health.headers.get('connection')], [200, 'close'], 'and ask elsewhere')
  const written = await fetch(`${api}/flows/late`, {
    method: 'PUT',
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    body: JSON.stringify({ name: 'Late' })
  })
  t.equal(written.status, 201)
  child.signal('SIGTERM')
  t.equal(await child.ended(), 1, 'at once, long before the delay is over')
  t.notMatch(child.output(), /"level":[456]0/, 'nothing has failed')
})

t.test(
  'a signal while it starts ends it at once, as the first process of a container too',
  async (t) => {
    const database = createServer()
    t.teardown(() => database.close())
    await once(database.listen(0, '127.0.0.1'), 'listening')
    for (const [signal, code] of [
      ['SIGINT', 130],
      ['SIGTERM', 143]
    ] as const) {
      const { port } = database.address() as AddressInfo
      const DATABASE_URL = `postgres://127.0.0.1:${port}/silent`
      const child = startServer(t, temporaryFolder(t), { DATABASE_URL })
      const [connection] = await once(database, 'connection')
      child.signal(signal)
      t.equal(await child.ended(), code, 'by itself, not by the kernel')
      connection.destroy()
    }
  }
)

t.test('a signal is heeded that comes just as it has started', async (t) => {
  // At once when the listener for a signal goes that was there while it started: what Node.js has caught
  // and not told yet is forgotten where no other listener has come before.
  const preload = `
    const off = process.off
    process.off = function (signal, listener) {
      if (signal === 'SIGTERM') process.kill(process.pid, signal)
      return off.call(this, signal, listener)
    }`
  const nodeOptions = ['--import', `data:text/javascript,${encodeURIComponent(preload)}`]
  const child = startServer(t, temporaryFolder(t), {}, { nodeOptions })
  await addressOf(child)
  t.equal(await child.ended(), 0)
})

t.test('a fault in native code is left to the kernel, and ends it', async (t) => {
  for (const signal of ['SIGSEGV', 'SIGABRT', 'SIGBUS'] as const) {
    const { child } = await startSignedIn(t)
    child.signal(signal)
    t.equal(await child.ended(), null, signal)
  }
})

t.test('what is under way ends in its own time, and what came of it is kept', async (t) => {
  const upstream = await startUpstream(t, beginStream)
  const { child, api, port, admin, token, file } = await startSignedIn(t, {
    OPENAI_API_KEY: 'key',
    OPENAI_BASE_URL: upstream.url,
    SHUTDOWN_TIMEOUT_MS: '600000'
  })
  const stream = await exchange({ port, admin }, '/llm/stream', { prompt: 'Hi' }).response
  const asked = await upstream.received(0)
  const body = JSON.stringify({ id: 'slow', name: 'Slow' })
  const writing = connect(port, '127.0.0.1').setEncoding('utf8')
  const written = readAll(writing as never)
  writing.write(postHead('/flows', token, body.length) + body.slice(0, 5))
  const agent = new Agent({ keepAlive: true })
  const [idle] = await once(httpGet(`${api}/health`, { agent }), 'response')
  await readAll(idle)

  child.signal('SIGTERM')
  await until(() => isRefused(port))
  writing.write(body.slice(5))
  t.match(await written, /^HTTP\/1.1 201/, 'a request whose body was still coming')
  sendPiece(asked, 'Bye')
  endStream(asked)
  t.match(readEvents(await readAll(stream)), [
    { data: { delta: 'Bye' } },
    { data: { done: true, content: 'Bye' } }
  ])
  t.equal(await child.ended(), 0)

  const db = new Database(file, { readonly: true })
  t.teardown(() => db.close())
  t.equal(db.prepare("select name from flows where id = 'slow'").pluck().get(), 'Slow')
  t.equal(db.prepare('select sum(calls) from llm_usage').pluck().get(), 1, 'usage is flushed')
})

t.test('what takes longer than its time is ended', async (t) => {
  const upstream = await startUpstream(t, beginStream)
  const { child, port, admin, token } = await startSignedIn(t, {
    OPENAI_API_KEY: 'key',
    OPENAI_BASE_URL: upstream.url,
    SHUTDOWN_TIMEOUT_MS: '1'
  })
  const stream = await exchange({ port, admin }, '/llm/stream', { prompt: 'Hi' }).response
  await upstream.received(0)
  const stuck = connect(port, '127.0.0.1')
  stuck.on('error', () => {})
  stuck.write(`${postHead('/flows', token, 9)}{`)
  await (await fetch(`http://127.0.0.1:${port}/api/health`)).text()
  child.signal('SIGTERM')
  const events = readEvents(await readAll(stream))
  t.match(events, [{ event: 'error', data: { status: 503, code: 'unavailable' } }])
  t.equal(await child.ended(), 0)
  t.match(child.output(), /cutting requests/)
})

t.test('what was ended and answered is not said to be cut', async (t) => {
  const upstream = await startUpstream(t, () => {})
  const { child, port, token } = await startSignedIn(t, {
    OPENAI_API_KEY: 'key',
    OPENAI_BASE_URL: upstream.url,
    SHUTDOWN_TIMEOUT_MS: '1'
  })
  const body = JSON.stringify({ prompt: 'Hi' })
  // Which the client keeps open.
  const asking = connect(port, '127.0.0.1')
  const answer = readAll(asking as never)
  asking.write(postHead('/llm/complete', token, body.length) + body)
  await upstream.received(0)
  child.signal('SIGTERM')
  t.match(await answer, /^HTTP\/1.1 503 .*"unavailable"/s)
  t.equal(await child.ended(), 0)
  t.notMatch(child.output(), /cutting requests/)
})

t.test('so is a stream that begins after the signal, with no other under way', async (t) => {
  const upstream = await startUpstream(t, beginStream)
  const { child, port, token } = await startSignedIn(t, {
    OPENAI_API_KEY: 'key',
    OPENAI_BASE_URL: upstream.url,
    SHUTDOWN_TIMEOUT_MS: '1000'
  })
  const body = JSON.stringify({ prompt: 'Hi' })
  const asking = connect(port, '127.0.0.1')
  const answer = readAll(asking as never)
  asking.write(postHead('/llm/stream', token, body.length) + body.slice(0, 5))
  await (await fetch(`http://127.0.0.1:${port}/api/health`)).text()
  child.signal('SIGTERM')
  await until(() => isRefused(port))
  asking.write(body.slice(5))
  t.match(await answer, /event: error\ndata: .*"unavailable"/)
  t.equal(await child.ended(), 0)
})

t.test('Fastify does not give up before what is under way has had its time', async (t) => {
  const { app } = await testApi(t, { env: { SHUTDOWN_TIMEOUT_MS: '60000' } })
  const { pluginTimeout = 0 } = app.initialConfig
  t.ok(pluginTimeout > 60_000, `${pluginTimeout}`)
})

t.test('in production it serves on for five seconds, unless told otherwise', async (t) => {
  const longest = (env: Record<string, string>) => mostStoppingMs(readEnvironment(env))
  const least = longest({})
  t.equal(longest({ NODE_ENV: 'production' }), least + 5000)
  t.equal(longest({ NODE_ENV: 'production', SHUTDOWN_DELAY_MS: '0' }), least)
})

t.test('a request that has come and is not read yet is answered', async (t) => {
  const { app } = await testApi(t)
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  const request = 'GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n'
  const sockets = Array.from({ length: 20 }, () => connect(port, '127.0.0.1'))
  for (const socket of sockets) socket.setEncoding('utf8').write(request)
  await Promise.all(sockets.map((socket) => once(socket, 'data')))
  const answers = sockets.map((socket) => readAll(socket as never))
  for (const socket of sockets) socket.write(request)
  await app.close()
  for (const answer of await Promise.all(answers)) t.match(answer, /^HTTP\/1.1 200/)
})

t.test('an answer that was under way says that its connection ends', async (t) => {
  const stopping = new AbortController()
  const { app } = await testApi(t, { stopping: stopping.signal })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  const body = JSON.stringify({ email: 'nobody@example.com', password: 'unknown' })
  const socket = connect(port, '127.0.0.1')
  const received = once(app.server, 'request')
  socket.write(
    `POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n`
  )
  await received
  stopping.abort()
  socket.write(body)
  t.match(await readAll(socket as never), /^HTTP\/1.1 401 .*\r\nconnection: close\r\n/is)
})

t.test('connections that wait to be accepted are answered', async (t) => {
  const { app } = await testApi(t)
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  const sockets = Array.from({ length: 20 }, () => connect(port, '127.0.0.1'))
  for (const socket of sockets) socket.write('GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n')
  const answers = sockets.map((socket) => readAll(socket as never))
  await once(app.server, 'connection')
  await app.close()
  for (const answer of await Promise.all(answers)) t.match(answer, /^HTTP\/1.1 200/)
})

t.test('a reader that is slow gets all of its answer', async (t) => {
  const { app, register } = await testApi(t, { env: { BODY_LIMIT: '40000000' } })
  const { send, token } = await register()
  // More than the system holds for a reader that takes nothing.
  const definition = { text: 'x'.repeat(32_000_000) }
  await send('PUT', '/flows/long', { name: 'Long', definition })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  const reader = connect(port, '127.0.0.1').setEncoding('utf8').pause()
  reader.write(`GET /api/flows/long HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\n\r\n`)
  const [, response] = await once(app.server, 'request')
  await until(async () => response.writableEnded)
  t.notOk(response.writableFinished)
  const closed = app.close()
  await until(() => isRefused(port))
  const answer = await readAll(reader as never)
  const [, length] = /content-length: (\d+)/i.exec(answer) ?? []
  t.equal(answer.length - answer.indexOf('\r\n\r\n') - 4, Number(length))
  await closed
})

t.test('a connection that has never said anything does not keep it from stopping', async (t) => {
  const { app } = await testApi(t)
  await app.listen({ port: 0, host: '127.0.0.1' })
  const silent = connect((app.server.address() as AddressInfo).port, '127.0.0.1')
  await Promise.all([once(silent, 'connect'), once(app.server, 'connection')])
  await app.close()
})
