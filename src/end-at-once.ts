import { constants } from 'node:os'

const endSignals = ['SIGINT', 'SIGTERM'] as const

function end(signal: NodeJS.Signals): void {
  process.exit(128 + constants.signals[signal])
}

/**
 * Has a signal end the process at once. So does the kernel, but for the first process of a container, which it
 * lets go on.
 */
export function endAtOnce(): void {
  for (const signal of endSignals)
    if (!process.listeners(signal).includes(end)) process.once(signal, end)
}

/**
 * For whoever ends in another way, and listens already: a signal that has come and is not told yet is forgotten
 * with the last listener.
 */
export function endNoMore(): void {
  for (const signal of endSignals) process.off(signal, end)
}
