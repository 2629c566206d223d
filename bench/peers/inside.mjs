// Answers what the bench asks about the inside of a server, and does nothing until it asks.
import { Session } from 'node:inspector/promises'
import { setTimeout as sleep } from 'node:timers/promises'

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

  /** Bytes that are in use after a full collection. */
  async alive() {
    await session.post('HeapProfiler.collectGarbage')
    return process.memoryUsage().heapUsed
  }
}

process.on('message', async ({ question, seconds }) => {
  session.connect()
  const answer = await answers[question](seconds)
  session.disconnect()
  process.send({ answer })
})
