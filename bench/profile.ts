import { readFileSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import type { Profiler, Runtime } from 'node:inspector'
import { SourceMap } from 'node:module'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Load, send } from './compare.js'
import { profileWhile } from './peers/profiler.mjs'
import { isReached, type Row } from './results.js'
import type { Server } from './servers.js'

/** Where something of ours goes, the larger shares first. */
export interface Profile {
  readonly of: 'the time of our main thread' | 'our resident memory'
  readonly shares: readonly Share[]
}

/** A part of our code, or of what it stands on, and how much of the whole it takes. */
export interface Share {
  readonly part: string
  readonly share: number
}

/** What `peers/inside.mjs` tells of a process's memory, in bytes. */
export interface Memory {
  readonly resident: number
  /** Of what is resident, in use after a full collection. */
  readonly alive: number
  /** By V8's names of its heap's spaces: what they hold of the resident memory. */
  readonly spaces: Readonly<Record<string, number>>
}

/** Smaller shares are not named. */
const LEAST_SHARE = 0.015

/** A load may be sent by a process that has to start first. */
const HEAD_START_SECONDS = 0.3

/** A row, with a profile where it misses what it was to reach. */
export async function withProfile(row: Row, take: () => Profile | Promise<Profile>): Promise<Row> {
  return isReached(row) ? row : { ...row, profile: await take() }
}

/** Of ours under a load. */
export async function profileUnderLoad(own: Server, load: Load, seconds: number): Promise<Profile> {
  const sent = send(load, { seconds: HEAD_START_SECONDS + seconds, connections: 50 })
  const profiled = sleep(HEAD_START_SECONDS * 1000).then(() =>
    own.ask<Profiler.Profile>('profile', seconds)
  )
  const [profile] = await Promise.all([profiled, sent])
  return ofTime(profile)
}

/** Of this process, while it does the same for a second. */
export async function profileOfCalls(call: (n: number) => Promise<unknown>): Promise<Profile> {
  const profile = await profileWhile(async () => {
    const begin = performance.now()
    for (let n = 0; performance.now() - begin < 1000; n++) await call(n)
  })
  return ofTime(profile)
}

/** What `node --cpu-prof` left in a folder. */
export async function profileIn(folder: string): Promise<Profile> {
  const name = (await readdir(folder)).find((each) => each.endsWith('.cpuprofile'))
  if (!name) throw new Error(`${folder} has no profile`)
  return ofTime(JSON.parse(await readFile(join(folder, name), 'utf8')))
}

export function profileOfMemory({ resident, spaces }: Memory): Profile {
  const parts = Object.entries(spaces)
  const inHeap = parts.reduce((sum, [, bytes]) => sum + bytes, 0)
  parts.push(['programs, their libraries and what is not on the heap', resident - inHeap])
  return {
    of: 'our resident memory',
    shares: named(parts.map(([part, bytes]) => ({ part, share: bytes / resident })))
  }
}

function ofTime(profile: Profiler.Profile): Profile {
  return { of: 'the time of our main thread', shares: sharesOf(profile) }
}

function named(shares: readonly Share[]): Share[] {
  return shares.filter(({ share }) => share >= LEAST_SHARE).sort((a, b) => b.share - a.share)
}

/** `idle` is the time in which the main thread waits for requests, or for another server. */
function sharesOf({ nodes, samples = [], timeDeltas = [] }: Profiler.Profile): Share[] {
  const byId = new Map(nodes.map((node) => [node.id, node]))
  const parents = new Map(nodes.flatMap(({ id, children }) => children?.map((c) => [c, id]) ?? []))

  /** What has no file, such as a function of C++, belongs to whoever called it. */
  function partOf(id: number): string | null {
    const { functionName } = (byId.get(id) as Profiler.ProfileNode).callFrame
    for (let at: number | undefined = id; at !== undefined; at = parents.get(at)) {
      const { callFrame } = byId.get(at) as Profiler.ProfileNode
      // The profiler itself, when it begins.
      if (callFrame.url === 'node:inspector') return null
      if (!callFrame.url) continue
      const place = placeOf(callFrame)
      return at === id ? place : `${functionName || 'callbacks'} of ${place}`
    }
    return functionName.replace(/^\((.*)\)$/, '$1')
  }

  const times = new Map<string, number>()
  let whole = 0
  for (const [index, id] of samples.entries()) {
    const part = partOf(id)
    if (part === null) continue
    const time = timeDeltas[index] ?? 0
    times.set(part, (times.get(part) ?? 0) + time)
    whole += time
  }
  return named([...times].map(([part, time]) => ({ part, share: time / whole })))
}

/** A package, a file of ours, or Node.js. */
function placeOf(frame: Runtime.CallFrame): string {
  if (frame.url.startsWith('node:')) return 'Node.js'
  const file = sourceOf(frame)
  const [, ofPackage] = /.*\/node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(file) ?? []
  return ofPackage ?? (file.startsWith(root) ? file.slice(root.length) : file)
}

/** The file that a part of our build was made of. What a module does as it is loaded has none. */
function sourceOf({ url, lineNumber, columnNumber }: Runtime.CallFrame): string {
  const map = sourceMapOf(url)
  if (!map) return url
  const entry = map.findEntry(lineNumber, columnNumber)
  return 'originalSource' in entry ? new URL(entry.originalSource, url).href : 'our modules'
}

/** Of a file of our build. */
function sourceMapOf(url: string): SourceMap | undefined {
  if (!url.startsWith(`${root}dist/`)) return undefined
  let map = sourceMaps.get(url)
  if (!map) {
    map = new SourceMap(JSON.parse(readFileSync(new URL(`${url}.map`), 'utf8')))
    sourceMaps.set(url, map)
  }
  return map
}

const sourceMaps = new Map<string, SourceMap>()
const root = new URL('..', import.meta.url).href
