// Answers what the bench asks about the inside of a server, and does nothing until it asks.
import { Session } from 'node:inspector/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { getHeapSpaceStatistics } from 'node:v8'
import { profileWhile } from './profiler.mjs'

const answers = {
  /** The main thread in the next seconds. */
  profile: (seconds) => profileWhile(() => sleep(seconds * 1000)),

  /** Bytes: what is resident now, the parts of it that V8's heap is, and what a full collection leaves. */
  async memory() {
    const spaces = getHeapSpaceStatistics().map((each) => [
      each.space_name.replaceAll('_', ' '),
      each.physical_space_size
    ])
    const resident = process.memoryUsage.rss()
    const session = new Session()
    session.connect()
    await session.post('HeapProfiler.collectGarbage')
    session.disconnect()
    const alive = process.memoryUsage().heapUsed
    return { resident, alive, spaces: Object.fromEntries(spaces) }
  }
}

process.on('message', async ({ question, seconds }) => {
  process.send({ answer: await answers[question](seconds) })
})
