import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { Agent, type OutgoingHttpHeaders, request } from 'node:http'
import { connect, type Socket } from 'node:net'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import { createSigner } from 'fast-jwt'
import t, { type Test } from 'tap'
import { newApiKeyText } from '../../src/api-key-text.js'
import { addressOf, startServer } from '../support/server.js'
import { temporaryFolder } from '../support/storages.js'

/** Connections of the tests besides those that are idle. */
const OTHERS = 500
const connections = Math.min(Number(process.env.FLOOD_CONNECTIONS || 10_000), mostConnections())
const refusals = Number(process.env.FLOOD_REFUSALS || 20_000)
/** At a time: as many as fit into the queue of those that nobody has accepted yet. */
const CONNECTING = 250
const FLOODERS = 50

t.setTimeout(600_000)

/** Of what the server may open, connections have 0.6. Node.js itself raises the soft limit to the hard one. */
function mostConnections(): number {
  const { userLimits } = process.report.getReport() as unknown as {
    userLimits: { open_files: { hard: number | 'unlimited' } }
  }
  const { hard } = userLimits.open_files
  return hard === 'unlimited'
    ? Number.POSITIVE_INFINITY
    : Math.max(Math.floor(hard * 0.6) - OTHERS, 0)
}

interface Answer {
  readonly status: number
  readonly code: string | undefined
  readonly body: Record<string, unknown>
}

interface Api {
  readonly port: number
  readonly pid: number
  send(
    method: string,
    path: string,
    headers?: OutgoingHttpHeaders,
    body?: object,
    agent?: Agent
  ): Promise<Answer>
}

async function startApi(t: Test, env: Readonly<Record<string, string>> = {}): Promise<Api> {
  const child = startServer(t, temporaryFolder(t), {
    SQLITE_PATH: './app.db',
    LOG_LEVEL: 'silent',
    TRUST_PROXY: 'loopback',
    HEADERS_TIMEOUT_MS: '3600000',
    REQUEST_TIMEOUT_MS: '3600000',
    KEEP_ALIVE_TIMEOUT_MS: '3600000',
    ...env
  })
  const port = Number(new URL(await addressOf(child)).port)
  return {
    port,
    pid: child.pid,
    async send(method, path, headers = {}, body, agent) {
      const content = body && { 'content-type': 'application/json' }
      const sent = request({
        port,
        host: '127.0.0.1',
        method,
        path: `/api${path}`,
        headers: { ...headers, ...content },
        ...(agent ? { agent } : {})
      })
      sent.end(body && JSON.stringify(body))
      const [response] = await once(sent, 'response')
      const received = await text(response)
      const parsed = received === '' ? {} : JSON.parse(received)
      return { status: response.statusCode, code: parsed.code, body: parsed }
    }
  }
}

const password = 'a password for this test'

async function register({ send }: Api, name: string) {
  const email = `${name}@example.com`
  const body = { tenant_name: name, name, email, password }
  const { status, body: signedIn } = await send('POST', '/auth/register', {}, body)
  if (status !== 201) throw new Error(`${status} for a registration`)
  return { email, headers: { authorization: `Bearer ${signedIn.token}` } }
}

function filesOf(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length
}

function residentMegabytes(pid: number): number {
  const [, kilobytes] = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? []
  return Math.round(Number(kilobytes) / 1024)
}

/** Opens a connection, which says nothing, or whose request was answered. */
async function openIdle(port: number, spoken: boolean): Promise<Socket> {
  const socket = connect(port, '127.0.0.1')
  await once(socket, 'connect')
  if (spoken) {
    socket.write('GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n')
    await once(socket, 'data')
  }
  return socket
}

async function openMany({ port }: Api): Promise<Socket[]> {
  const sockets: Socket[] = []
  while (sockets.length < connections) {
    const count = Math.min(CONNECTING, connections - sockets.length)
    sockets.push(
      ...(await Promise.all(Array.from({ length: count }, (_, i) => openIdle(port, i % 2 === 0))))
    )
  }
  return sockets
}

t.test(`${connections} idle connections leave the API usable, and nothing behind`, async (t) => {
  const api = await startApi(t)
  // Before any connection: one that ends meanwhile would count as missing.
  const files = filesOf(api.pid)
  const admin = await register(api, 'idle')
  const memory: number[] = []
  for (const round of [1, 2, 3]) {
    const sockets = await openMany(api)
    const open = filesOf(api.pid) - files
    t.ok(open >= connections, `${open} open`)
    for (let i = 0; i < 100; i++) {
      const path = `/flows/r${round}-${i}`
      const created = await api.send('PUT', path, admin.headers, { name: `${i}` })
      const read = await api.send('GET', path, admin.headers)
      if (created.status !== 201 || read.body.name !== `${i}`) t.fail(`${path}: ${read.status}`)
    }
    t.equal((await api.send('GET', '/ready')).status, 200)
    t.equal(sockets.filter(({ destroyed }) => destroyed).length, 0, 'none was closed')
    for (const socket of sockets) socket.destroy()
    // Besides its own files, the requests of this test may have left a connection or two.
    while (filesOf(api.pid) > files + 20) await sleep(20)
    memory.push(residentMegabytes(api.pid))
  }
  // What the first round took is there for the next ones: a leak would grow with each.
  const [first = 0, , last = 0] = memory
  t.ok(last < first * 1.5, `${memory} MB`)
  t.comment(`${connections} connections, 3 times; ${memory.join(', ')} MB after each`)
})

/** A server that may open so many files. */
async function startWithFiles(t: Test, most: number) {
  const limit = `ulimit -n ${most}; exec "$0" "$@"`
  const child = startServer(t, temporaryFolder(t), {}, { under: ['sh', '-c', limit] })
  return { child, port: Number(new URL(await addressOf(child)).port) }
}

t.test('connections are refused before there is nothing left to open', async (t) => {
  const { child, port } = await startWithFiles(t, 200)
  const first = await openIdle(port, true)
  const others = Array.from({ length: 200 }, () => connect(port, '127.0.0.1').on('error', () => {}))
  const refused = Promise.race(others.map((socket) => once(socket, 'close')))
  await child.wrote('too many connections')
  await refused
  first.write('GET /api/ready HTTP/1.1\r\nHost: x\r\n\r\n')
  const [answer] = await once(first, 'data')
  t.match(`${answer}`, /^HTTP\/1\.1 200 /)
  for (const socket of [first, ...others]) socket.destroy()
})

t.test('so are answers from files, which readers keep open', async (t) => {
  const { port } = await startWithFiles(t, 200)
  const file = 'GET /api/docs/static/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n'
  const readers = Array.from({ length: 60 }, () =>
    connect(port, '127.0.0.1', function (this: Socket) {
      this.write(file.repeat(20))
    })
  )
  const statusOf = async (path: string) => {
    const answer = await fetch(`http://127.0.0.1:${port}${path}`)
    await answer.text()
    return answer.status
  }
  while ((await statusOf('/api/docs/')) === 200);
  t.equal(await statusOf('/api/docs/'), 503)
  t.equal(await statusOf('/api/ready'), 200)
  for (const reader of readers) reader.destroy()
  while ((await statusOf('/api/docs/')) === 503);
  t.equal(await statusOf('/api/docs/'), 200)
})

t.test(`${refusals} refused requests leave the API usable`, async (t) => {
  const api = await startApi(t)
  const admin = await register(api, 'flooded')
  const [header, payload] = admin.headers.authorization.replace('Bearer ', '').split('.')
  const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const forge = createSigner({
    key: randomBytes(32).toString('base64'),
    iss: 'workflow-api',
    aud: 'access',
    expiresIn: 60_000
  })
  const bad = [
    () => `Bearer ${randomBytes(30).toString('base64url')}`,
    () => `Bearer ${header}.${payload}.${randomBytes(32).toString('base64url')}`,
    () => `Bearer ${forge({ sub: 'x', jti: randomBytes(8).toString('hex') })}`,
    () => `Bearer ${encode({ alg: 'none' })}.${payload}.`,
    () => `Bearer ${newApiKeyText()}`,
    () => `Bearer wfa_${randomBytes(19).toString('hex')}`,
    () => `Basic ${randomBytes(12).toString('base64')}`,
    () => ''
  ]
  const agent = new Agent({ keepAlive: true, maxSockets: FLOODERS })
  t.teardown(() => agent.destroy())
  const answers: Record<string, number> = {}
  let sent = 0
  async function flood(): Promise<void> {
    while (sent < refusals) {
      const authorization = bad[sent++ % bad.length]?.() ?? ''
      const { status, code } = await api.send('GET', '/flows', { authorization }, undefined, agent)
      const outcome = `${status} ${code}`
      answers[outcome] = (answers[outcome] ?? 0) + 1
    }
  }
  let flooding = true
  const flooded = Promise.all(Array.from({ length: FLOODERS }, flood)).finally(() => {
    flooding = false
  })
  let served = 0
  const failed: string[] = []
  while (flooding) {
    const path = `/flows/f${served}`
    const created = await api.send('PUT', path, admin.headers, { name: 'F' })
    const read = await api.send('GET', path, admin.headers)
    if (created.status !== 201 || read.status !== 200)
      failed.push(`${path} ${created.status} ${read.status}`)
    served++
  }
  await flooded
  t.strictSame(answers, { '401 unauthenticated': refusals })
  t.strictSame(failed, [])
  t.ok(served > 0)
  t.comment(`${refusals} refused; meanwhile ${2 * served} requests of a user, all answered`)
})

t.test('a flood of sign-ins from one address locks nobody else out', async (t) => {
  const api = await startApi(t, { AUTH_RATE_LIMIT_PER_MINUTE: '5' })
  const admin = await register(api, 'limited')
  const attacker = { 'x-forwarded-for': '192.0.2.1' }
  const statuses: number[] = []
  for (let i = 0; i < 300; i++) {
    const guess = { email: `nobody${i}@example.com`, password: 'a wrong password' }
    statuses.push((await api.send('POST', '/auth/login', attacker, guess)).status)
  }
  t.equal(statuses.filter((status) => status === 429).length, 295)
  const { email } = admin
  const other = { 'x-forwarded-for': '192.0.2.2' }
  const signIn = (headers: OutgoingHttpHeaders) =>
    api.send('POST', '/auth/login', headers, { email, password })
  t.equal((await signIn(other)).status, 200, 'another address signs in')
  t.equal((await signIn(attacker)).status, 429, 'this one has to wait')
  const here = { ...admin.headers, ...attacker }
  t.equal((await api.send('GET', '/flows', here)).status, 200, 'its sessions go on')
})
