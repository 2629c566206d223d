import { createHash } from 'node:crypto'
import {
  chmodSync,
  closeSync,
  copyFileSync,
  existsSync,
  openSync,
  readFileSync,
  statSync,
  truncateSync,
  writeSync
} from 'node:fs'
import { basename, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import Database from '../../adapters/storage/better-sqlite3.js'
import { type Child, runChild } from '../support/child-process.js'
import { addressOf, startServer } from '../support/server.js'
import { lockElsewhere } from '../support/sqlite-lock.js'
import { temporaryFolder } from '../support/storages.js'
import {
  faultsOf,
  halves,
  integrityOf,
  Refused,
  type Registered,
  type Round,
  register,
  send,
  steps,
  type WrittenFlow
} from '../support/witnessed-writes.js'

/**
 * What becomes of the real server, and of what it acknowledged, when its disk is full, its file is
 * locked, read-only or damaged. Another process drives it over HTTP.
 */
const WRITERS = 4
/** Makes the write-ahead log grow. */
const PADDING = 'x'.repeat(8000)

/** Something that keeps the server from writing, and how it ends. */
interface Fault {
  readonly name: string
  /** What the log says of it. */
  readonly logged: RegExp
  /** Where the database file is; a folder of the test by default. */
  folder?(t: Test): Promise<string>
  begin(t: Test, server: Child, file: string): Promise<() => Promise<void>>
}

const limitOfFileSize: Fault = {
  name: 'a limit on the size of files',
  logged: /The disk (answered with an error|, or the quota of the database file, is full)\./,
  async begin(_t, { pid }, file) {
    // Less than the log takes before it is written into the file, and starts again.
    const limit = statSync(`${file}-wal`).size + 200_000
    await runChild('prlimit', [`--pid=${pid}`, `--fsize=${limit}:unlimited`])
    return async () => {
      // It ends with the server, too.
      await runChild('prlimit', [`--pid=${pid}`, '--fsize=unlimited']).catch(() => {})
    }
  }
}

const fullFileSystem: Fault = {
  name: 'a full file system',
  logged: /The disk, or the quota of the database file, is full\./,
  async folder(t) {
    const folder = temporaryFolder(t)
    await runChild('mount', ['-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', folder])
    t.teardown(() => runChild('umount', [folder]))
    return folder
  },
  async begin(_t, _server, file) {
    const filler = openSync(`${file}.filler`, 'w')
    try {
      for (;;) writeSync(filler, Buffer.alloc(4096))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error
    }
    closeSync(filler)
    return async () => truncateSync(`${file}.filler`, 0)
  }
}

const lockedFile: Fault = {
  name: 'a lock of another process',
  logged: /Another process holds the database lock\./,
  begin: (t, _server, file) => lockElsewhere(t, file)
}

/** Without what tap adds to the programs of tests: it would end them at a signal that Node ignores. */
const asItIs = ['env', '-u', 'NODE_OPTIONS'] as const

t.setTimeout(600_000)

async function canMount(): Promise<boolean> {
  try {
    await runChild('unshare', ['--mount', 'mount', '-t', 'tmpfs', 'tmpfs', '/mnt'])
    return true
  } catch {
    return false
  }
}

for (const fault of [limitOfFileSize, fullFileSystem, lockedFile])
  t.test(`${fault.name}: writes are refused, nothing is lost, and it recovers`, async (t) => {
    if (fault === fullFileSystem && !(await canMount()))
      return t.comment('no file system can be mounted here')
    const folder = (await fault.folder?.(t)) ?? temporaryFolder(t)
    const file = join(folder, 'app.db')
    const env = { SQLITE_PATH: file }
    let server = startServer(t, folder, env, { under: asItIs })
    let api = await addressOf(server)
    const admin = await register(api, 'the writer')
    const round: Round = { since: '2000-01-01T00:00:00Z', flows: [], registered: [admin] }
    const load = startLoad(() => api, admin.token, round)
    await load.acknowledged(20)

    const end = await fault.begin(t, server, file)
    await load.refused(2 * WRITERS)
    await assertReads(t, api, admin)
    t.equal((await fetch(`${api}/health`)).status, 200)
    await end()
    await load.acknowledged(20)
    t.pass('it writes again, without a restart')

    const endAgain = await fault.begin(t, server, file)
    await load.refused(WRITERS)
    await load.stop()
    for (const { status, problem, retryAfter } of load.refusals)
      t.match(
        { status, problem, retryAfter },
        {
          status: 503,
          problem: { code: 'unavailable', detail: /nothing was changed/ },
          retryAfter: '1'
        }
      )
    t.match(server.output(), fault.logged)
    t.strictSame(await faultsOf(api, admin.token, round), [], 'as the same server shows it')

    server.signal('SIGKILL')
    await server.ended()
    const early = startServer(t, folder, env, { under: asItIs })
    const refusal = await early.wrote('/api/docs\n').then(
      () => null,
      () => early.output()
    )
    if (refusal === null) await assertReads(t, await addressOf(early), admin)
    else t.match(refusal, fault.logged)
    t.comment(`a server that is started meanwhile: ${refusal ?? 'it serves'}`)
    early.signal('SIGTERM')
    t.equal(await early.ended(), refusal === null ? 0 : 1)
    await endAgain()
    server = startServer(t, folder, env, { under: asItIs })
    api = await addressOf(server)
    t.strictSame(await faultsOf(api, admin.token, round), [], 'as the next one does')
    t.equal(integrityOf(file), 'ok')
    t.strictSame(halves(file), [])

    t.teardown(await fault.begin(t, server, file))
    server.signal('SIGTERM')
    t.equal(await server.ended(), 0, 'it stops in order meanwhile')
    const acknowledged = round.flows.reduce((sum, flow) => sum + flow.acknowledged.length, 1)
    t.comment(`${acknowledged} acknowledged writes found, ${load.refusals.length} were refused`)
  })

/** Writes from several connections until it is stopped, whatever is refused. */
function startLoad(api: () => string, token: string, round: Round) {
  const refusals: Refused[] = []
  let answers = 0
  let next = 0
  let stopped = false

  async function step(flow: WrittenFlow, index: number): Promise<boolean> {
    const { method } = steps[index] as (typeof steps)[number]
    const flows = `${api()}/flows`
    const name = String(index + 1)
    const body = { id: flow.id, name, definition: { PADDING } }
    try {
      const requestId = await (method === 'POST'
        ? send(method, flows, token, body)
        : send(method, `${flows}/${flow.id}`, token, method === 'PATCH' ? { name } : undefined))
      flow.acknowledged.push(requestId)
      answers++
      return true
    } catch (error) {
      if (!(error instanceof Refused)) throw error
      // It says that nothing was done, and is held to that.
      refusals.push(error)
      return false
    }
  }

  async function write(): Promise<void> {
    while (!stopped) {
      const flow: WrittenFlow = { id: `flow.${next++}`, acknowledged: [], inDoubt: false }
      round.flows.push(flow)
      let index = 0
      while (index < steps.length && (await step(flow, index))) index++
      if (index < steps.length) await sleep(5)
    }
  }

  const writers = Array.from({ length: WRITERS }, write)
  async function more(count: () => number, much: number): Promise<void> {
    const enough = count() + much
    while (count() < enough) await Promise.race([sleep(5), failed])
  }
  const failed = Promise.all(writers)
  return {
    refusals,
    acknowledged: (count: number) => more(() => answers, count),
    refused: (count: number) => more(() => refusals.length, count),
    async stop() {
      stopped = true
      await failed
    }
  }
}

async function assertReads(t: Test, api: string, { token, userId }: Registered): Promise<void> {
  for (const path of ['flows?limit=1', 'audit?limit=1', `users/${userId}`]) {
    const answer = await fetch(`${api}/${path}`, { headers: { authorization: `Bearer ${token}` } })
    t.equal(answer.status, 200, `reads go on: ${path}`)
    await answer.arrayBuffer()
  }
}

/** A file with acknowledged writes in it, of a server that has ended. */
async function writtenFile(t: Test, signal: NodeJS.Signals) {
  const folder = temporaryFolder(t)
  const file = join(folder, 'app.db')
  const start = () => startServer(t, folder, { SQLITE_PATH: file }, { under: unprivileged })
  const server = start()
  const api = await addressOf(server)
  const admin = await register(api, 'the writer')
  const round: Round = { since: '2000-01-01T00:00:00Z', flows: [], registered: [admin] }
  const load = startLoad(() => api, admin.token, round)
  await load.acknowledged(60)
  await load.stop()
  server.signal(signal)
  await server.ended()
  return {
    file,
    folder,
    admin,
    start,

    /** The next server stops before it serves, says why, and leaves the file as it is. */
    async refuses(t: Test, why: RegExp): Promise<void> {
      const before = digestOf(file)
      const refusing = start()
      t.equal(await refusing.ended(), 1)
      t.match(refusing.output(), why)
      t.equal(refusing.output().trim().split('\n').length, 1, 'in one line')
      t.equal(digestOf(file), before, 'nothing is overwritten')
    },

    /** Everything that was acknowledged is there. */
    async holdsAll(t: Test): Promise<void> {
      const next = start()
      t.strictSame(await faultsOf(await addressOf(next), admin.token, round), [])
      next.signal('SIGTERM')
      t.equal(await next.ended(), 0)
      t.equal(integrityOf(file), 'ok')
      t.strictSame(halves(file), [])
      const writes = round.flows.reduce((sum, { acknowledged }) => sum + acknowledged.length, 1)
      t.comment(`${writes} acknowledged writes found`)
    }
  }
}

function digestOf(file: string): string {
  return createHash('sha256').update(readFileSync(file)).digest('hex')
}

/** The superuser may write what is read-only, unless this is taken away. */
const powers = '-dac_override,-dac_read_search'
const unprivileged =
  process.geteuid?.() === 0
    ? [...asItIs, 'setpriv', `--bounding-set=${powers}`, `--inh-caps=${powers}`]
    : asItIs

for (const signal of ['SIGTERM', 'SIGKILL'] as const)
  t.test(`a read-only file, after ${signal}`, async (t) => {
    const { file, refuses, holdsAll } = await writtenFile(t, signal)
    for (const each of [file, `${file}-wal`, `${file}-shm`].filter(existsSync)) {
      chmodSync(each, 0o444)
      await refuses(t, new RegExp(`^The database file is read-only: .*/${basename(each)}\n$`))
      chmodSync(each, 0o644)
    }
    await holdsAll(t)
  })

t.test('a read-only folder', async (t) => {
  const { folder, refuses, holdsAll } = await writtenFile(t, 'SIGTERM')
  chmodSync(folder, 0o555)
  await refuses(t, /^The database file, or its folder, is read-only\.\n$/)
  chmodSync(folder, 0o755)
  await holdsAll(t)
})

t.test('a folder in which no file can be made, and one that cannot be made', async (t) => {
  const folder = temporaryFolder(t)
  chmodSync(folder, 0o555)
  const refusals = {
    'app.db': `the file ${folder}/app.db cannot be made`,
    'deep/app.db': `its folder ${folder}/deep cannot be made (EACCES)`
  }
  for (const [file, why] of Object.entries(refusals)) {
    const env = { SQLITE_PATH: join(folder, file) }
    const server = startServer(t, temporaryFolder(t), env, { under: unprivileged })
    t.equal(await server.ended(), 1)
    t.equal(server.output(), `The database file cannot be opened: ${why}.\n`)
  }
})

t.test('a file that becomes read-only under a server that has it open', async (t) => {
  const { file, admin, start, refuses, holdsAll } = await writtenFile(t, 'SIGTERM')
  const server = start()
  const api = await addressOf(server)
  chmodSync(file, 0o444)
  await send('POST', `${api}/flows`, admin.token, { id: 'late', name: 'Late' })
  server.signal('SIGKILL')
  await server.ended()
  await refuses(t, /^The database file is read-only: .*app\.db\n$/)
  chmodSync(file, 0o644)
  await holdsAll(t)
})

const damages: readonly {
  readonly name: string
  readonly refused: RegExp
  damage(file: string): void
}[] = [
  {
    name: 'the header',
    refused: /The file is not an SQLite database\./,
    damage: (file) => overwrite(file, 0, 100)
  },
  {
    name: 'the schema',
    refused: /The database file is damaged\./,
    damage: (file) => overwrite(file, 100, 3900)
  },
  {
    name: 'the second half, which is gone',
    refused: /The database file is damaged\./,
    damage: (file) => truncateSync(file, statSync(file).size / 2)
  }
]

for (const { name, refused, damage } of damages)
  t.test(`a file that is damaged: ${name}`, async (t) => {
    const { file, refuses, holdsAll } = await writtenFile(t, 'SIGTERM')
    copyFileSync(file, `${file}.copy`)
    damage(file)
    await refuses(t, refused)
    copyFileSync(`${file}.copy`, file)
    await holdsAll(t)
  })

t.test('a file that is damaged where the flows are', async (t) => {
  const { file, admin, start, holdsAll } = await writtenFile(t, 'SIGTERM')
  copyFileSync(file, `${file}.copy`)
  const db = new Database(file)
  const roots = db
    .prepare<[], number>("select rootpage from sqlite_schema where tbl_name = 'flows'")
    .pluck()
    .all()
  db.close()
  for (const root of roots) overwrite(file, (root - 1) * 4096, 4096)

  const server = start()
  const api = await addressOf(server)
  const get = (path: string) =>
    fetch(`${api}/${path}`, { headers: { authorization: `Bearer ${admin.token}` } })
  const list = await get('flows')
  t.equal(list.status, 503)
  t.match(await list.json(), { code: 'unavailable' })
  const write = send('POST', `${api}/flows`, admin.token, { id: 'late', name: 'Late' })
  await t.rejects(write, /503 .*"code":"unavailable"/)
  t.equal((await get('audit?resource_id=late')).status, 200, 'the rest is served')
  t.equal(await (await get('audit?resource_id=late')).text(), '[]', 'without a trace of the write')
  t.match(server.output(), /The database file is damaged\./)
  server.signal('SIGTERM')
  t.equal(await server.ended(), 0)
  const bytes = readFileSync(file)
  for (const root of roots)
    t.ok(
      bytes.subarray((root - 1) * 4096, root * 4096).every((byte) => byte === 0xff),
      'not overwritten'
    )
  copyFileSync(`${file}.copy`, file)
  await holdsAll(t)
})

function overwrite(file: string, from: number, length: number): void {
  const descriptor = openSync(file, 'r+')
  writeSync(descriptor, Buffer.alloc(length, 0xff), 0, length, from)
  closeSync(descriptor)
}
