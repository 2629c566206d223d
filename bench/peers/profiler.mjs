import { Session } from 'node:inspector/promises'

export const SAMPLING_MICROSECONDS = 200

/** What `node --cpu-prof` would find in this process meanwhile. */
export async function profileWhile(work) {
  const session = new Session()
  session.connect()
  await session.post('Profiler.enable')
  await session.post('Profiler.setSamplingInterval', { interval: SAMPLING_MICROSECONDS })
  await session.post('Profiler.start')
  await work()
  const { profile } = await session.post('Profiler.stop')
  session.disconnect()
  return profile
}
