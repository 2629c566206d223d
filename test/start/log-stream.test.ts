import { type ChildProcessByStdio, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync } from 'node:fs'
import type { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { packageFile } from '../../adapters/package-files.js'
import { startChild, uncounted } from '../support/child-process.js'
import { freePort } from '../support/free-port.js'
import { readAll } from '../support/llm-api.js'
import { exchangeRaw } from '../support/raw-http.js'
import { builtProgram } from '../support/server.js'
import { type Teardown, temporaryFolder } from '../support/storages.js'

const tsx = import.meta.resolve('tsx')

/** What makes Node.js run a program that has `log`, the stream that is tested. */
function logging(program: string): string[] {
  const open = `
    import { logStream } from '${packageFile('src/log-stream.ts')}'
    const log = logStream()`
  return ['--import', tsx, '--input-type=module', '--eval', open + program]
}

/** Node.js, whose standard output is read as the test wishes, or is a file. Ended with the test. */
function startUnread(
  t: Teardown,
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
  stdout: 'pipe' | number = 'pipe'
) {
  const child = spawn(process.execPath, args, {
    cwd: temporaryFolder(t),
    env: { PATH: process.env.PATH, ...uncounted, ...env },
    stdio: ['ignore', stdout, 'pipe']
  }) as ChildProcessByStdio<null, Readable, Readable>
  t.teardown(() => child.kill('SIGKILL'))
  // There is none to read where it is a file.
  child.stdout?.setEncoding('utf8')
  child.stderr.setEncoding('utf8')
  return child
}

t.test('lines of the very end are written, more than a pipe holds too', async (t) => {
  const lines = Array.from({ length: 20_000 }, (_, n) => String(n).padEnd(99))
  const program = `
    for (let n = 0; n < ${lines.length}; n++) log.write(String(n).padEnd(99) + '\\n')
    process.exit()`
  const child = startChild(process.execPath, logging(program))
  t.equal(await child.ended(), 0)
  const written = child.output().split('\n')
  t.equal(written.length - 1, lines.length)
  t.ok(written.join('\n') === `${lines.join('\n')}\n`, 'each as it was, in order')
})

for (const [signals, delay, code] of [
  ['a signal', '0', 0],
  ['a second signal', '600000', 1]
] as const)
  t.test(`${signals} ends a server whose log is not read`, async (t) => {
    const env = { PORT: '0', SHUTDOWN_DELAY_MS: delay }
    const child = startUnread(t, [builtProgram('server')], env)
    const ended = once(child, 'exit')
    let output = ''
    for await (const text of child.stdout.iterator({ destroyOnReturn: false })) {
      output += text
      if (output.includes('/api/docs\n')) break
    }
    const [address = '', port] = /http:\S+:(\d+)\/api/.exec(output) ?? []
    // A line of log each: far more than the pipe and what reads from it hold.
    const request = 'GET /api/health HTTP/1.1\r\nHost: x\r\n'
    const together = `${`${request}\r\n`.repeat(99)}${request}Connection: close\r\n\r\n`
    for (let n = 0; n < 100; n++)
      t.equal((await exchangeRaw(Number(port), together, { halfClose: false })).length, 100)
    child.kill('SIGTERM')
    if (code === 1) {
      while ((await fetch(`${address}/ready`)).status !== 503);
      child.kill('SIGTERM')
    }
    t.strictSame(await ended, [code, null])
  })

t.test('lines that find no room are dropped, and that is told', async (t) => {
  const program = `
    for (let n = 0; n < 200_000; n++) {
      log.write(String(n).padEnd(99) + '\\n')
      if (n % 1000 === 999) await new Promise(setImmediate)
    }
    process.stderr.write('written')`
  const child = startUnread(t, logging(program))
  await once(child.stderr, 'data')
  const lines = (await readAll(child.stdout as never)).trimEnd().split('\n')
  const warning = JSON.parse(lines.pop() as string)
  t.match(warning, { level: 40, msg: /^\d+ lines of the log were dropped/ })
  t.equal(lines.length + Number.parseInt(warning.msg, 10), 200_000)
  t.ok(
    lines.every((line, n) => Number(line) === n && line.length === 99),
    'the first are whole'
  )
})

t.test('a full disk under the log keeps nobody from an answer, and the server ends', async (t) => {
  // Where every write fails as on a full disk; what the server says of that goes elsewhere.
  const full = openSync('/dev/full', 'w')
  t.teardown(() => closeSync(full))
  const port = await freePort()
  const child = startUnread(t, [builtProgram('server')], { PORT: String(port) }, full)
  const ended = once(child, 'exit')
  let said = ''
  child.stderr.on('data', (text: string) => {
    said += text
  })
  while (!(await isReady(port))) await sleep(20)
  for (let n = 0; n < 20; n++) t.ok(await isReady(port))
  while (!said.includes('ENOSPC')) await sleep(5)
  t.match(said, /^The log cannot be written and is tried again: ENOSPC[^\n]*\n$/)
  child.kill('SIGTERM')
  t.strictSame(await ended, [0, null])
})

async function isReady(port: number): Promise<boolean> {
  const answer = await fetch(`http://127.0.0.1:${port}/api/ready`).catch(() => undefined)
  return answer?.status === 200
}
