import { type ChildProcess, fork } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { ask } from './ask.js'

/** One kind of request to one server, and what its answer must be. */
export interface Load {
  readonly url: string
  readonly method?: 'GET' | 'POST' | 'PATCH'
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string
  readonly status: number
  /** The whole body of each answer, where all are the same. */
  readonly expected?: string
  /** Sent in turn, where not all are the same. */
  readonly requests?: readonly RequestOfMany[]
}

export interface RequestOfMany {
  readonly path: string
  readonly body?: string
  /** What the body of the answer must have in it. */
  readonly includes: string
}

export interface Side {
  readonly load: Load
  /** Whose processor time is counted, where the system tells (Linux). */
  readonly pid?: number | undefined
}

export interface Spread {
  readonly median: number
  readonly low: number
  readonly high: number
}

/** Ours against a peer: everything but the ratio is for orientation. */
export interface Comparison {
  /** Requests a second, ours for each of the peer's. */
  readonly ratio: Spread
  readonly ours: Figures
  readonly peer: Figures
}

export interface Figures {
  readonly rate: number
  /** Milliseconds. */
  readonly p50: number
  readonly p99: number
  /** Microseconds of processor time that the server took for a request. */
  readonly cpu: number | null
}

export interface Effort {
  readonly rounds: number
  readonly seconds: number
  readonly warmUpSeconds: number
}

/** What bench/load.mjs answers. */
interface LoadResult {
  readonly answers: number
  readonly right: number
  readonly failures: number
  readonly rate: number
  readonly p50: number
  readonly p99: number
}

const program = fileURLToPath(new URL('./load.mjs', import.meta.url))
/** Processes that sent a load. A new one would be busy with itself at first. */
const idle: ChildProcess[] = []

/** Sends a load from another process. @throws where an answer was not as it must be. */
export async function send(
  load: Load,
  extent: { readonly seconds?: number; readonly amount?: number; readonly connections: number }
): Promise<LoadResult> {
  const loader = idle.pop() ?? fork(program, { execArgv: [] })
  keepRunning(loader, true)
  const result = await ask<LoadResult>(loader, { ...load, ...extent })
  keepRunning(loader, false)
  idle.push(loader)
  if (result.failures > 0 || result.right === 0)
    throw new Error(
      `${load.method ?? 'GET'} ${load.url}: ${result.failures} of ${result.answers} answers were not as expected`
    )
  return result
}

/** Whether this process waits for another before it ends, which ends with this one in any case. */
function keepRunning(other: ChildProcess, awaited: boolean): void {
  for (const each of [other, other.channel]) awaited ? each?.ref() : each?.unref()
}

/** The two sides take turns, so that whatever else the machine does meets both. */
export async function compare(
  ours: Side,
  peer: Side,
  { rounds, seconds, warmUpSeconds }: Effort,
  connections = 50
): Promise<Comparison> {
  const warmUp = ({ load }: Side) => send(load, { seconds: warmUpSeconds, connections })
  await Promise.all([ours, peer].map(warmUp))
  const found: [Figures[], Figures[]] = [[], []]
  for (let round = 0; round < rounds; round++)
    for (const turn of round % 2 ? [0, 1] : [1, 0])
      found[turn as 0 | 1].push(await measure(turn ? peer : ours, seconds, connections))
  const [mine, others] = found
  const ratios = mine.map(({ rate }, round) => rate / (others[round] as Figures).rate)
  return { ratio: spreadOf(ratios), ours: medianOf(mine), peer: medianOf(others) }
}

async function measure({ load, pid }: Side, seconds: number, connections: number) {
  const before = await processorTime(pid)
  const { rate, p50, p99, answers } = await send(load, { seconds, connections })
  const after = await processorTime(pid)
  const cpu = before === null || after === null ? null : (after - before) / answers
  return { rate, p50, p99, cpu }
}

/** Microseconds that a process has computed, or null where the system does not tell. */
async function processorTime(pid: number | undefined): Promise<number | null> {
  if (pid === undefined || process.platform !== 'linux') return null
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8')
  // After the name, which may hold anything: utime and stime, in hundredths of a second.
  const [user = 0, system = 0] = stat
    .slice(stat.lastIndexOf(')') + 2)
    .split(' ')
    .slice(11, 13)
    .map(Number)
  return (user + system) * 10_000
}

export function spreadOf(values: readonly number[]): Spread {
  return {
    median: quantile(values, 0.5),
    low: quantile(values, 0.25),
    high: quantile(values, 0.75)
  }
}

function medianOf(figures: readonly Figures[]): Figures {
  const middle = (pick: (each: Figures) => number) => quantile(figures.map(pick), 0.5)
  return {
    rate: middle(({ rate }) => rate),
    p50: middle(({ p50 }) => p50),
    p99: middle(({ p99 }) => p99),
    cpu: figures.some(({ cpu }) => cpu === null) ? null : middle(({ cpu }) => cpu as number)
  }
}

export function quantile(values: readonly number[], part: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.round((sorted.length - 1) * part)] as number
}
