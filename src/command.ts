import { AccountError } from '../adapters/identity/port.js'
import { StorageError } from '../adapters/storage/errors.js'
import { ConfigurationError } from './configuration.js'
import { DecryptionError } from './encryption.js'
import { ApiError } from './problems.js'

/** Errors whose message is all that an operator needs. */
const forOperators = [ConfigurationError, StorageError, AccountError, DecryptionError, ApiError]

/** Runs a program; what stops it is told in a sentence, or with a stack where it is a fault. */
export function runCommand(main: () => Promise<void>): void {
  main().catch((error: unknown) => {
    const known = forOperators.some((type) => error instanceof type)
    process.stderr.write(`${known ? (error as Error).message : (error as Error).stack}\n`)
    process.exitCode = 1
  })
}
