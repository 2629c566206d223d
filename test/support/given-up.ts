import pg from 'pg'
import type { Test } from 'tap'
import type { TenantId } from '../../adapters/storage/port.js'
import { openPostgres } from '../../adapters/storage/postgres.js'
import type { ConnectionOptions } from '../../adapters/storage/postgres-connections.js'
import { createStorage } from '../../adapters/storage/storage.js'
import { templates } from '../../schemas/templates.js'

const POOL_SIZE = 4
const tenant = '019b76da-a800-7000-8000-00000000bbbb' as TenantId

interface GivingUp extends Partial<ConnectionOptions> {
  readonly rounds?: number
  /** The address of the server itself, where `url` is that of a pooler. */
  readonly direct?: string
}

/** Asserts that reads which a storage gives up, for a table that somebody locks, end in the server, too. */
export async function assertGivenUp(
  t: Test,
  url: string,
  { rounds = 1, direct = url, ...options }: GivingUp = {}
): Promise<void> {
  const given = { url, poolSize: POOL_SIZE, timeoutMs: 500, ...options }
  const storage = createStorage(await openPostgres(given))
  t.teardown(() => storage.close())
  const read = (id: string) => storage.get({ resource: templates, tenant }, id)
  const locker = new pg.Client({ connectionString: direct })
  await locker.connect()
  t.teardown(() => locker.end())
  await locker.query('begin; lock table templates in access exclusive mode')
  for (let round = 0; round < rounds; round++) {
    const ids = Array.from({ length: POOL_SIZE }, (_, index) => `t${index}`)
    for (const outcome of await Promise.allSettled(ids.map(read))) {
      t.equal(outcome.status, 'rejected')
      const { code, message } = (outcome as PromiseRejectedResult).reason
      t.equal(code, 'unavailable')
      t.notMatch(message, /slots|too many/, 'and not for want of connections')
    }
  }
  const waiting = `select 1 from pg_stat_activity
    where application_name = 'workflow-api' and wait_event_type = 'Lock'`
  const deadline = performance.now() + 10_000
  let left: number
  do left = (await locker.query(waiting)).rows.length
  while (left > 0 && performance.now() < deadline)
  t.equal(left, 0, 'nothing waits in the server')
  await locker.query('rollback')
  t.equal(await read('t1'), null)
}
