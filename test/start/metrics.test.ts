import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type { Child } from '../support/child-process.js'
import { addressOf, startServer } from '../support/server.js'
import { temporaryFolder } from '../support/storages.js'

/** Where a server that has started serves its metrics. */
function metricsOf(child: Child): string {
  const [, address] = /Metrics +(http:\/\/\S+)/.exec(child.output()) ?? []
  return address as string
}

async function read(address: string): Promise<string> {
  return (await fetch(address)).text()
}

/** How many requests a text of metrics counts, by what is said of them. */
function countOf(text: string, labels: string): number {
  const line = text
    .split('\n')
    .find((each) => each.startsWith(`http_request_duration_seconds_count{${labels}}`))
  return Number(line?.split(' ').at(-1) ?? 0)
}

t.test('requests are counted by route and status, beside what the process takes', async (t) => {
  const child = startServer(t, temporaryFolder(t), { METRICS_PORT: '0' })
  const api = await addressOf(child)
  const metrics = metricsOf(child)
  const answer = await fetch(metrics)
  t.match(answer.headers.get('content-type'), 'text/plain; version=0.0.4')
  const before = await answer.text()
  t.match(before, /^workflow_api_info\{version="\d+\.\d+\.\d+",storage="memory"\} 1$/m)
  t.match(before, /^nodejs_eventloop_lag_seconds \d/m)
  t.match(before, /^process_resident_memory_bytes \d/m)

  for (const path of ['/health', '/health', '/flows/mine', '/flows/yours', '/nowhere?token=t'])
    await fetch(`${api}${path}`)
  const text = await read(`${metrics}?since=ever`)
  t.equal(countOf(text, 'method="GET",route="/api/health",status_code="200"'), 2)
  t.equal(countOf(text, 'method="GET",route="/api/flows/:id",status_code="401"'), 2)
  t.equal(countOf(text, 'method="GET",route="",status_code="404"'), 1)
  t.notMatch(text, /mine|yours|nowhere/, 'nothing that a client chose')
  const [, sum] =
    /_sum\{method="GET",route="\/api\/health",status_code="200"\} (\S+)/.exec(text) ?? []
  t.ok(Number(sum) > 0 && Number(sum) < 60, `${sum} s`)
})

t.test('a client that leaves before its answer is counted as 499', async (t) => {
  const child = startServer(t, temporaryFolder(t), { METRICS_PORT: '0' })
  const { port } = new URL(await addressOf(child))
  const socket = connect(Number(port), '127.0.0.1')
  const head = 'POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n'
  socket.write(`${head}Content-Length: 100\r\n\r\n{`, () => socket.end())
  const labels = 'method="POST",route="/api/auth/login",status_code="499"'
  while (countOf(await read(metricsOf(child)), labels) === 0) await sleep(5)
})

t.test('neither port has what belongs to the other', async (t) => {
  const child = startServer(t, temporaryFolder(t), { METRICS_PORT: '0' })
  const api = await addressOf(child)
  const metrics = metricsOf(child)
  for (const url of [new URL('/metrics', api), `${api}/metrics`, new URL('/api/health', metrics)])
    t.equal((await fetch(url)).status, 404, String(url))
})

t.test('without METRICS_PORT there are none', async (t) => {
  const child = startServer(t, temporaryFolder(t))
  await addressOf(child)
  t.notMatch(child.output(), 'Metrics')
})

t.test('a port that is in use is named, and the start fails', async (t) => {
  const first = startServer(t, temporaryFolder(t), { METRICS_PORT: '0' })
  await addressOf(first)
  const { port } = new URL(metricsOf(first))
  const second = startServer(t, temporaryFolder(t), { METRICS_PORT: port })
  t.equal(await second.ended(), 1)
  t.match(second.output(), `METRICS_PORT ${port} is in use. Stop what uses it, or set another.`)
})

t.test('connections that say nothing do not add up, and go', async (t) => {
  const child = startServer(t, temporaryFolder(t), { METRICS_PORT: '0' })
  const api = await addressOf(child)
  const metrics = metricsOf(child)
  let closed = 0
  for (let n = 0; n < 50; n++)
    connect(Number(new URL(metrics).port), '127.0.0.1')
      .on('error', () => {})
      .on('close', () => closed++)
      .resume()
  while (closed < 30) await sleep(5)
  t.equal((await fetch(`${api}/health`)).status, 200)
  t.equal(closed, 30, 'what is beyond the limit goes at once')
  while (closed < 50) await sleep(5)
  t.match(await read(metrics), 'workflow_api_info')
})

t.test('they are there while the server stops, and end with it', async (t) => {
  const env = { METRICS_PORT: '0', SHUTDOWN_DELAY_MS: '600000' }
  const child = startServer(t, temporaryFolder(t), env)
  const api = await addressOf(child)
  const metrics = metricsOf(child)
  child.signal('SIGTERM')
  while ((await fetch(`${api}/ready`)).status !== 503) await sleep(5)
  t.ok(countOf(await read(metrics), 'method="GET",route="/api/ready",status_code="503"') > 0)
  child.signal('SIGTERM')
  await child.ended()
  await t.rejects(fetch(metrics))
})
