import { writeSync } from 'node:fs'
import { GCProfiler, getHeapStatistics } from 'node:v8'

/**
 * Imported by a program that runs with `--expose-gc`. At each SIGWINCH, which nothing else here
 * listens to, it writes by how many bytes the heap grew since the last one and how often the
 * collector ran meanwhile, and has it run. The first counts from the start.
 */
let collector = watchCollector()
let before = heapSize()
let windows = 0

process.on('SIGWINCH', () => {
  const bytes = heapSize() - before
  const collections = collector.stop()?.statistics.length ?? 0
  globalThis.gc?.()
  collector = watchCollector()
  before = heapSize()
  // Last, and at once: whoever reads it goes on.
  writeSync(2, `window ${windows++}: ${bytes} bytes, ${collections} collections\n`)
})

function heapSize(): number {
  return getHeapStatistics().used_heap_size
}

function watchCollector(): GCProfiler {
  const profiler = new GCProfiler()
  profiler.start()
  return profiler
}
