import { execFile } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { packageFile } from '../../adapters/package-files.js'
import { readEnvironment } from '../../src/configuration.js'
import { mostStoppingMs } from '../../src/stopping.js'
import { temporaryFolder } from '../support/storages.js'

const text = readFileSync(packageFile('compose.yaml'), 'utf8')

/** Rules of taste that compose.yaml has its reasons to break. */
const notOurs = new Set([
  // One image serves two services, and is built here.
  'no-build-and-image',
  'service-image-require-explicit-tag',
  'require-project-name-field',
  'service-keys-order',
  // It looks at the quotes before variables are put in.
  'require-quotes-in-ports'
])

interface Message {
  readonly rule: string
  readonly message: string
}

const linter = join(
  dirname(createRequire(import.meta.url).resolve('dclint/package.json')),
  'bin/dclint.cjs'
)

/** What dclint says of a compose file, the schema of the Compose specification included. */
async function lint(file: string): Promise<Message[]> {
  const run = promisify(execFile)(process.execPath, [linter, file, '--formatter', 'json'])
  // It exits with 1 where there is anything to say.
  const { stdout } = await run.catch((error: { stdout: string }) => error)
  const [{ messages }] = JSON.parse(stdout) as [{ messages: Message[] }]
  return messages.filter(({ rule }) => !notOurs.has(rule))
}

t.test('compose.yaml fits the schema of Compose files', async (t) => {
  t.strictSame(await lint(packageFile('compose.yaml').pathname), [])
})

t.test('no two services build the one image at once', async (t) => {
  t.match(text.match(/^ +build:/gm), [/build/])
})

t.test('Docker waits for a server that stops', (t) => {
  const [, seconds] = /stop_grace_period: (\d+)s\n/.exec(text) ?? []
  const mostMs = mostStoppingMs(readEnvironment({ NODE_ENV: 'production' }))
  t.ok(Number(seconds) * 1000 > mostMs, `${seconds} s for ${mostMs} ms`)
  t.end()
})

t.test('the linter would say if it did not', async (t) => {
  const file = join(temporaryFolder(t), 'compose.yaml')
  writeFileSync(file, text.replace('condition: service_healthy', 'condition: service_fine'))
  t.match(await lint(file), [{ rule: 'invalid-schema' }])
})
