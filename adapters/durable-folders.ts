import { closeSync, fsyncSync, mkdirSync, openSync, realpathSync } from 'node:fs'
import { dirname } from 'node:path'

/**
 * Makes a folder and those above it, where they are missing, so that they outlive a power cut. The name
 * of one that is there is flushed, too: whoever made it may have been killed before.
 */
export function makeFolder(path: string): void {
  const first = mkdirSync(path, { recursive: true }) ?? path
  // By the system, for which `..` behind a link leads elsewhere than in the text of a path.
  const top = dirname(realpathSync.native(first))
  let folder = realpathSync.native(path)
  while (folder !== top && folder !== dirname(folder)) {
    folder = dirname(folder)
    flushFolder(folder)
  }
}

/** Waits until the names in a folder are on the disk: flushing a file says nothing of its name. */
export function flushFolder(path: string): void {
  let descriptor: number | undefined
  try {
    descriptor = openSync(path, 'r')
    fsyncSync(descriptor)
  } catch {
    // Windows and some file systems cannot. SQLite goes on whatever the reason, too.
  } finally {
    if (descriptor !== undefined) closeSync(descriptor)
  }
}
