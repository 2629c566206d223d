import { once } from 'node:events'
import { Agent, type IncomingMessage, request } from 'node:http'
import { join } from 'node:path'
import { compare, type Load, quantile, type Side, spreadOf } from './compare.js'
import type { Extent } from './groups.js'
import { profileUnderLoad, withProfile } from './profile.js'
import type { Row } from './results.js'
import { residentSize, type Server, startPeer, withServers } from './servers.js'

/** Where chat completions of another gateway are asked for, such as Portkey's. */
const { BENCH_GATEWAY, BENCH_GATEWAY_PID } = process.env
/** What is to be reached, in requests a second. */
const FROM_PROVIDER = 3000
const FROM_CACHE = 15_000
const OPEN_STREAMS = 1000

/** What our LLM routes cost on top of a provider that costs next to nothing. */
export async function measureLlm(extent: Extent, folder: string): Promise<Row[]> {
  return withServers([startPeer('provider', folder, {})], async ([provider]) => {
    const base = { OPENAI_API_KEY: 'k', OPENAI_BASE_URL: provider.url }
    const env = {
      ...base,
      STORAGE: 'memory',
      LLM_RATE_LIMIT_PER_MINUTE: '1000000000',
      LLM_LOG_PATH: join(folder, 'llm.log')
    }
    const servers = [
      startPeer('own', folder, env),
      startPeer('own', folder, { ...env, LLM_CACHE_ENABLED: 'true' }),
      startPeer('openai', folder, base)
    ]
    return withServers(servers, async ([own, cached, bare]) => [
      ...(await compareRates({ provider, own, cached, bare }, extent)),
      await compareLatency('complete, the whole answer', own, provider, extent),
      await compareLatency('stream, the first piece', own, provider, extent),
      await measureOpenStreams(env, folder)
    ])
  })
}

interface Servers {
  readonly provider: Server
  readonly own: Server
  readonly cached: Server
  readonly bare: Server
}

async function compareRates(servers: Servers, extent: Extent): Promise<Row[]> {
  const { provider, own, cached, bare } = servers
  const [direct, streamed] = await loadsOfProvider(provider)
  const ours = { load: await loadOf(own, 'complete'), pid: own.pid }
  const stream = { load: await loadOf(own, 'stream'), pid: own.pid }
  const hits = { load: await loadOf(cached, 'complete'), pid: cached.pid }
  const package_ = { load: await answered(postOf(`${bare.url}/complete`, ask)), pid: bare.pid }
  const constant = { load: await answered(postOf(`${bare.url}/constant`, ask)), pid: bare.pid }
  const rows: Row[] = []
  const push = async (row: Row, server: Server, { load }: Side) => {
    rows.push(await withProfile(row, () => profileUnderLoad(server, load, extent.seconds)))
  }
  const add = async (
    what: string,
    beside: string,
    [mine, theirs]: Parameters<typeof compare>,
    reach: Row['reach'] = null
  ) => {
    const found = await compare(mine, theirs, extent)
    await push({ what, beside, reach, ...found }, own, mine)
    return found
  }

  if (BENCH_GATEWAY) {
    const load = await answered(throughGateway(BENCH_GATEWAY, provider))
    const gateway = { load, pid: BENCH_GATEWAY_PID ? Number(BENCH_GATEWAY_PID) : undefined }
    await add('LLM: complete', 'another gateway', [ours, gateway, extent], { least: 3 })
  }
  const calls = await add('LLM: complete', 'the openai package in bare Fastify', [
    ours,
    package_,
    extent
  ])
  await push(besideTarget('LLM: complete', calls.ours.rate, FROM_PROVIDER), own, ours)
  await add('LLM: complete', 'the provider itself', [ours, { load: direct }, extent])
  await add('LLM: stream of ten pieces', 'the provider itself', [
    stream,
    { load: streamed },
    extent
  ])
  const what = 'LLM: complete, from the cache'
  const found = await add(what, 'bare Fastify with the answer at hand', [hits, constant, extent])
  await push(besideTarget(what, found.ours.rate, FROM_CACHE), cached, hits)
  return rows
}

function besideTarget(what: string, rate: number, target: number): Row {
  return {
    what,
    beside: `${target} requests/s`,
    ratio: spreadOf([rate / target]),
    reach: { least: 1 }
  }
}

const ask = { prompt: 'Hi' }
const chat = { model: 'bench', messages: [{ role: 'user', content: 'Hi' }] }

function postOf(url: string, body: object, headers: Readonly<Record<string, string>> = {}): Load {
  const json = { ...headers, 'content-type': 'application/json' }
  return { url, method: 'POST', headers: json, body: JSON.stringify(body), status: 200 }
}

function loadOf({ url, token }: Server, route: 'complete' | 'stream'): Promise<Load> {
  return answered(postOf(`${url}/api/llm/${route}`, ask, { authorization: `Bearer ${token}` }))
}

function loadsOfProvider({ url }: Server): Promise<[Load, Load]> {
  const at = `${url}/chat/completions`
  return Promise.all([answered(postOf(at, chat)), answered(postOf(at, { ...chat, stream: true }))])
}

/** As Portkey's gateway is told whom to ask. */
function throughGateway(url: string, { url: upstream }: Server): Load {
  return postOf(url, chat, {
    authorization: 'Bearer k',
    'x-portkey-provider': 'openai',
    'x-portkey-custom-host': upstream
  })
}

/** Expects what it is answered now, after a look at it. */
async function answered(load: Load): Promise<Load> {
  const { url, method = 'POST', headers = {}, body = '' } = load
  const answer = await fetch(url, { method, headers, body })
  const expected = await answer.text()
  if (!answer.ok || !expected.includes('An answer'))
    throw new Error(`${url} answers ${answer.status} ${expected}`)
  return { ...load, expected }
}

/** One caller who asks one after the other, ours and the provider in turns. */
async function compareLatency(
  what: 'complete, the whole answer' | 'stream, the first piece',
  own: Server,
  provider: Server,
  { sequentialCalls }: Extent
): Promise<Row> {
  const streams = what.startsWith('stream')
  const [direct, streamed] = await loadsOfProvider(provider)
  const loads = [await loadOf(own, streams ? 'stream' : 'complete'), streams ? streamed : direct]
  const agent = new Agent({ keepAlive: true })
  const times: [number[], number[]] = [[], []]
  for (let call = -200; call < sequentialCalls; call++)
    for (const side of [0, 1] as const) {
      const millis = await timeToAnswer(loads[side] as Load, agent)
      if (call >= 0) times[side].push(millis)
    }
  agent.destroy()
  const [ours, theirs] = times
  const both = (part: number) => [quantile(ours, part), quantile(theirs, part)] as const
  const told = (part: number) => {
    const [mine, direct] = both(part)
    return `${mine.toFixed(2)} / ${direct.toFixed(2)} ms, ${(mine - direct).toFixed(2)} added`
  }
  return {
    what: `LLM, one caller: ${what}`,
    beside: 'the provider itself',
    ratio: spreadOf(ours.map((millis, call) => millis / (theirs[call] as number))),
    reach: null,
    note: `p50 ${told(0.5)}; p99 ${told(0.99)}`
  }
}

/** Milliseconds to the first piece of what was asked for. Every answer begins with it. */
async function timeToAnswer(load: Load, agent: Agent): Promise<number> {
  const begun = performance.now()
  const response = await send(load, agent)
  await firstPiece(response)
  const millis = performance.now() - begun
  for await (const _ of response);
  return millis
}

async function send({ url, method, headers, body }: Load, agent: Agent): Promise<IncomingMessage> {
  const sent = request(url, { agent, method, headers: { ...headers } })
  sent.end(body)
  const [response] = await once(sent, 'response')
  if (response.statusCode !== 200) throw new Error(`${url}: ${response.statusCode}`)
  return response
}

async function firstPiece(response: IncomingMessage): Promise<void> {
  let text = ''
  response.setEncoding('utf8')
  for await (const piece of response.iterator({ destroyOnReturn: false })) {
    text += piece
    if (text.includes('An answer')) return
  }
  throw new Error(`The response ended early: ${text}`)
}

/** In a new process: one that has been busy has memory to spare. */
async function measureOpenStreams(env: Readonly<Record<string, string>>, folder: string) {
  return withServers([startPeer('own', folder, env)], async ([own]): Promise<Row> => {
    const headers = { authorization: `Bearer ${own.token}` }
    const held = postOf(`${own.url}/api/llm/stream`, { prompt: 'Hold' }, headers)
    const agent = new Agent()
    const streams: IncomingMessage[] = []
    const open = async (count: number) => {
      for (const end = streams.length + count; streams.length < end; )
        streams.push(
          ...(await Promise.all(
            Array.from({ length: 50 }, async () => {
              const response = await send(held, agent)
              await firstPiece(response)
              return response
            })
          ))
        )
    }
    // What the first streams load stays, however many follow.
    await open(100)
    const before = await residentSize(own.pid)
    await open(OPEN_STREAMS)
    const after = await residentSize(own.pid)
    for (const response of streams) response.destroy()
    return {
      what: `LLM: resident with ${OPEN_STREAMS.toLocaleString('en')} more open streams`,
      beside: 'with 100',
      ratio: spreadOf([after / before]),
      reach: null,
      note: `${before.toFixed(0)} to ${after.toFixed(0)} MiB: ${(((after - before) * 1024) / OPEN_STREAMS).toFixed(0)} KiB for each stream`
    }
  })
}
