import type { Profiler } from 'node:inspector'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Load, send } from './compare.js'
import { isReached, type Row } from './results.js'
import type { Server } from './servers.js'

/** A part of our code, or of what it stands on, and how much of the main thread's time it takes. */
export interface Share {
  readonly part: string
  readonly share: number
}

/** Smaller shares are not named. */
const LEAST_SHARE = 0.015

/** The load is a process that takes its time to start. */
const HEAD_START_SECONDS = 1

/** A row, with a profile of ours under the same load where it misses what it was to reach. */
export async function withProfile(
  row: Row,
  own: Server,
  load: Load,
  seconds: number
): Promise<Row> {
  if (isReached(row)) return row
  const sent = send(load, { seconds: HEAD_START_SECONDS + seconds, connections: 50 })
  const profiled = sleep(HEAD_START_SECONDS * 1000).then(() =>
    own.ask<Profiler.Profile>('profile', seconds)
  )
  const [profile] = await Promise.all([profiled, sent])
  return { ...row, profile: sharesOf(profile) }
}

/** `idle` is the time in which the main thread waits for requests, or for another server. */

function sharesOf({ nodes, samples = [], timeDeltas = [] }: Profiler.Profile): Share[] {
  const byId = new Map(nodes.map((node) => [node.id, node]))
  const parents = new Map(nodes.flatMap(({ id, children }) => children?.map((c) => [c, id]) ?? []))

  /** What has no file, such as a function of C++, belongs to whoever called it. */
  function partOf(id: number): string | null {
    const { functionName } = (byId.get(id) as Profiler.ProfileNode).callFrame
    for (let at: number | undefined = id; at !== undefined; at = parents.get(at)) {
      const { url } = (byId.get(at) as Profiler.ProfileNode).callFrame
      // The profiler itself, when it begins.
      if (url === 'node:inspector') return null
      if (url) return at === id ? placeOf(url) : `${functionName || 'callbacks'} of ${placeOf(url)}`
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
  return [...times]
    .map(([part, time]) => ({ part, share: time / whole }))
    .filter(({ share }) => share >= LEAST_SHARE)
    .sort((a, b) => b.share - a.share)
}

/** A package, a file of ours, or Node.js. */
function placeOf(url: string): string {
  const [, ofPackage] = /.*\/node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(url) ?? []
  const [, ours] = /\/dist\/(.*)/.exec(url) ?? []
  return ofPackage ?? ours ?? (url.startsWith('node:') ? 'Node.js' : url)
}
