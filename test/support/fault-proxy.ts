import { once } from 'node:events'
import http from 'node:http'
import type { AddressInfo } from 'node:net'

/**
 * Where a request breaks: before it arrives, or after it was carried out and only the answer is
 * lost; or what something that stands between answers in its stead. With `silent` it is carried
 * out and nothing comes back, ever; with `late` it is carried out when all heals. `none` lets
 * requests pass before the next fault for the same ones.
 */
export type Fault =
  | 'none'
  | 'before'
  | 'after'
  | 'silent'
  | 'late'
  | { readonly status: number; readonly body: string }

/** Stands before a server and breaks the requests that a test names. */
export interface FaultProxy {
  readonly url: string
  /** Method and address of every request so far. */
  readonly requests: string[]
  /** Breaks the next requests whose `METHOD /address` matches, all of them unless told how many. */
  fail(request: RegExp, fault: Fault, times?: number): void
  /** From now on nothing breaks. */
  heal(): void
  close(): Promise<void>
}

interface Planned {
  readonly request: RegExp
  readonly fault: Fault
  times: number
}

/** @param target may be a project on the web as well as one of local parts. */
export async function startFaultProxy(target: string): Promise<FaultProxy> {
  const requests: string[] = []
  let planned: Planned[] = []
  let late: (() => void)[] = []

  function faultOf(request: string): Fault | undefined {
    const plan = planned.find((each) => each.times > 0 && each.request.test(request))
    if (plan) plan.times--
    return plan?.fault
  }

  const server = http.createServer(async (request, response) => {
    const line = `${request.method} ${request.url}`
    requests.push(line)
    const fault = faultOf(line)
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk)
    if (fault === 'before') return request.socket.destroy()
    if (typeof fault === 'object') return response.writeHead(fault.status).end(fault.body)
    if (fault === 'late') await new Promise<void>((resolve) => late.push(resolve))
    const answer = await pass(target, request, Buffer.concat(chunks)).catch(() => null)
    if (fault === 'silent') return
    if (fault === 'after' || !answer) return request.socket.destroy()
    response.writeHead(answer.status, answer.headers).end(answer.body)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')

  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    fail(request, fault, times = Number.POSITIVE_INFINITY) {
      planned.push({ request, fault, times })
    },
    heal() {
      planned = []
      for (const carryOut of late) carryOut()
      late = []
    },
    async close() {
      server.close()
      server.closeAllConnections()
      await once(server, 'close')
    }
  }
}

/** Headers that belong to one connection, or that the next one sets itself. */
const ofTheHop = /^(connection|keep-alive|transfer-encoding|content-length|content-encoding|host)$/

async function pass(
  target: string,
  { method = 'GET', url, headers }: http.IncomingMessage,
  body: Buffer
) {
  const answer = await fetch(`${target}${url}`, {
    method,
    headers: withoutHop(Object.entries(headers) as [string, string][]),
    redirect: 'manual',
    ...(body.length ? { body } : {})
  })
  return {
    status: answer.status,
    headers: withoutHop([...answer.headers]),
    body: Buffer.from(await answer.arrayBuffer())
  }
}

function withoutHop(headers: Iterable<[string, string]>): Record<string, string> {
  return Object.fromEntries([...headers].filter(([name]) => !ofTheHop.test(name)))
}
