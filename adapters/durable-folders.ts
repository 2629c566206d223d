import { closeSync, fsyncSync, mkdirSync, openSync } from 'node:fs'
import { dirname, resolve } from 'node:path'

/** Makes a folder and those above it, where they are missing, so that they outlive a power cut. */
export function makeFolder(path: string): void {
  const folder = resolve(path)
  // One that is there may have been made by a process that was killed before it could flush.
  const first = mkdirSync(folder, { recursive: true }) ?? folder
  for (let made = folder; made.length >= first.length; made = dirname(made))
    flushFolder(dirname(made))
}

/** Waits until the names in a folder are on the disk: flushing a file says nothing of its name. */
export function flushFolder(path: string): void {
  let descriptor: number | undefined
  try {
    descriptor = openSync(path, 'r')
    fsyncSync(descriptor)
  } catch {
    // Windows and some file systems cannot. SQLite goes on there, too.
  } finally {
    if (descriptor !== undefined) closeSync(descriptor)
  }
}
