import { runCommand } from './command.js'
import { readKeptEnvironment } from './configuration.js'
import { verifyKeys } from './key-canaries.js'
import { checkSecrets, type KeyReport, rotateSecrets } from './key-rotation.js'
import { openBackend } from './open.js'

const usage = `Usage: npm run keys -- check | rotate

  check   tells how many secrets are under each encryption key, and names those that none opens
  rotate  encrypts under the first key of ENCRYPTION_KEY what is under another, while the API serves

Both exit with 1 where a secret cannot be opened, and rotate where a server still writes with an
older key.
`

const commands = { check: checkSecrets, rotate: rotateSecrets }

async function main(args: readonly string[]): Promise<void> {
  const [name = '', ...rest] = args
  if (rest.length || !Object.hasOwn(commands, name)) {
    process.stderr.write(usage)
    process.exitCode = 2
    return
  }
  const env = readKeptEnvironment('Secrets in memory end with the server that has them.')
  const { storage, keys } = await openBackend(env, { mayMake: false })
  try {
    // A key that nothing was written with may be a mistake, which a look must not make the truth.
    if (name === 'rotate') await verifyKeys(storage, keys.keyring)
    const run = commands[name as keyof typeof commands]
    const progress = progressLine()
    const report = await run(storage, keys.keyring, { onProgress: progress.show }).finally(
      progress.end
    )
    print(report)
    if (report.unreadable.length || report.stillWritten) process.exitCode = 1
  } finally {
    await storage.close()
  }
}

const BAR_WIDTH = 24

/** Secrets that came while it ran do not make it longer than it is. */
function bar(done: number, all: number): string {
  const filled = all === 0 ? BAR_WIDTH : Math.min(Math.floor((done / all) * BAR_WIDTH), BAR_WIDTH)
  return `[${'#'.repeat(filled)}${'-'.repeat(BAR_WIDTH - filled)}]`
}

/** One line that is written over on a terminal; elsewhere a line every second. */
function progressLine() {
  const onTerminal = process.stderr.isTTY
  let shownAt = 0
  return {
    show({ secrets, allSecrets, rotated }: Readonly<KeyReport>): void {
      if (Date.now() - shownAt < (onTerminal ? 50 : 1000)) return
      shownAt = Date.now()
      const text = `${bar(secrets, allSecrets)} ${secrets} of ${allSecrets} secrets, ${rotated} encrypted anew`
      process.stderr.write(onTerminal ? `\r\x1b[2K${text}` : `${text}\n`)
    },
    end(): void {
      if (onTerminal) process.stderr.write('\r\x1b[2K')
    }
  }
}

function print(report: KeyReport): void {
  const { allTenants, secrets, byKey, rotated, stillWritten, unreadable } = report
  const keys = [...byKey].map(([id, count]) => `${count} under ${id}`).join(', ')
  const lines = [
    `${secrets} secrets of ${allTenants} tenants${keys && `: ${keys}`}. ${rotated} were encrypted anew.`,
    ...unreadable.map(
      ({ tenant, name, keyId }) =>
        `No configured key opens the secret ${name} of tenant ${tenant}, written with the key ${keyId}.`
    )
  ]
  if (stillWritten)
    lines.push(
      `A server still writes with an older key: ${stillWritten} secrets came during the last pass. ` +
        'Give every server the ENCRYPTION_KEY of this run, then run it again.'
    )
  process.stdout.write(`${lines.join('\n')}\n`)
}

runCommand(() => main(process.argv.slice(2)))
