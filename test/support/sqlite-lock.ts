import { fileURLToPath } from 'node:url'
import { packageFile } from '../../adapters/package-files.js'
import { startChild } from './child-process.js'
import type { Teardown } from './storages.js'

/** Refers to the connection for ever: one that is collected as garbage lets go of its lock. */
const program = `
  const { default: Database } = await import('./adapters/storage/better-sqlite3.ts')
  const db = new Database(process.argv[1])
  db.exec('begin immediate')
  console.log('locked')
  setInterval(() => db.open, 1000)`

/** Has another process hold the write lock of a file, and returns how to end it. */
export async function lockElsewhere(t: Teardown, path: string): Promise<() => Promise<void>> {
  const cwd = fileURLToPath(packageFile('.'))
  const args = ['--import', 'tsx', '--input-type=module', '-e', program, path]
  const child = startChild(process.execPath, args, { cwd })
  async function unlock(): Promise<void> {
    child.signal('SIGKILL')
    await child.ended()
  }
  t.teardown(unlock)
  await child.wrote('locked')
  return unlock
}
