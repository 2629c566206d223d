// Answers what the bench asks about the inside of a server, and does nothing until it asks.
import { Session } from 'node:inspector/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { getHeapSpaceStatistics } from 'node:v8'

const session = new Session()
const answers = {
  /** What `node --cpu-prof` would find in the next seconds. */
  async profile(seconds) {
    await session.post('Profiler.enable')
    await session.post('Profiler.setSamplingInterval', { interval: 200 })
    await session.post('Profiler.start')
    await sleep(seconds * 1000)
    const { profile } = await session.post('Profiler.stop')
    return profile
  },

  /** Bytes: what is resident now, the parts of it that V8's heap is, and what a full collection leaves. */
  async memory() {
    const spaces = getHeapSpaceStatistics().map((each) => [
      each.space_name.replaceAll('_', ' '),
      each.physical_space_size
    ])
    const resident = process.memoryUsage.rss()
    await session.post('HeapProfiler.collectGarbage')
    const alive = process.memoryUsage().heapUsed
    return { resident, alive, spaces: Object.fromEntries(spaces) }
  }
}

process.on('message', async ({ question, seconds }) => {
  session.connect()
  const answer = await answers[question](seconds)
  session.disconnect()
  process.send({ answer })
})
