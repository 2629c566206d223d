import { AccountError } from '../adapters/identity/port.js'
import { StorageError } from '../adapters/storage/errors.js'
import { ConfigurationError } from './configuration.js'
import { DecryptionError } from './encryption.js'
import { endAtOnce } from './end-at-once.js'
import { ApiError } from './problems.js'

/** Errors whose message is all that an operator needs. */
const forOperators = [ConfigurationError, StorageError, AccountError, DecryptionError, ApiError]

/**
 * Runs a program; what stops it is told in a sentence, or with a stack where it is a fault.
 * @param worksOn tells whether it does although what it says cannot be written: by default where nobody
 * reads it any more.
 */
export function runCommand(
  main: () => Promise<void>,
  worksOn: (error: NodeJS.ErrnoException) => boolean = ({ code }) => code === 'EPIPE'
): void {
  // Elsewhere the kernel does, in the middle of whatever it does, too.
  if (process.pid === 1) endAtOnce()
  for (const stream of [process.stdout, process.stderr])
    stream.on('error', (error) => {
      if (!worksOn(error)) throw error
    })
  main().catch((error: unknown) => {
    const known = forOperators.some((type) => error instanceof type)
    process.stderr.write(`${known ? (error as Error).message : (error as Error).stack}\n`)
    process.exitCode = 1
  })
}
