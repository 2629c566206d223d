import { randomUUID } from 'node:crypto'
import pg from 'pg'
import t from 'tap'
import type { Query, Storage, TenantId } from '../../adapters/storage/port.js'
import { openPostgres } from '../../adapters/storage/postgres.js'
import { createStorage } from '../../adapters/storage/storage.js'
import { audit } from '../../schemas/audit.js'
import { executions } from '../../schemas/executions.js'
import { startPostgres, withStack } from '../support/postgres-stack.js'

const tenant = randomUUID() as TenantId
const ROWS = 20_000
/** Postgres plans the first five executions of a statement each for its own values, and then decides. */
const EXECUTIONS = 10

/** Scattered over the table, so that to read it in the order of a list is as dear as it can be. */
const fill = `
  insert into tenants values ('${tenant}', 'Acme', now(), now(), 1);
  insert into flows (tenant_id, id, name, status, created_at, updated_at, version)
    select '${tenant}', 'flow_' || n, 'Flow', 'active', now(), now(), 1
    from generate_series(0, 9) n;
  insert into executions (tenant_id, id, flow_id, status, created_at, updated_at, version)
    select '${tenant}', gen_random_uuid(), 'flow_' || n % 10,
      case when n % 100 = 0 then 'failed' else 'success' end,
      timestamptz '2026-01-01Z' + n * interval '1 s', now(), 1
    from generate_series(1, ${ROWS}) n order by md5(n::text);
  analyze`

type ExecutionQuery = Omit<Query<typeof executions>, 'limit'>
const [since, until] = ['2026-01-01T01:00:00Z', '2026-01-01T05:00:00Z']
const queries: Readonly<Record<string, ExecutionQuery>> = {
  'all rows': {},
  'all rows, oldest first': { order: 'asc' },
  'rows of a flow': { filter: { flow_id: 'flow_1' } },
  'rows with a status': { filter: { status: 'failed' } },
  'rows of a flow with a status': { filter: { flow_id: 'flow_1', status: 'success' } },
  'rows of a period': { since, until },
  'rows of a flow in a period': { filter: { flow_id: 'flow_1' }, since, until }
}

interface Sent {
  /** What a plan is kept under. */
  readonly name?: string
  readonly text: string
  readonly values: unknown[]
}

/** What a read sends to Postgres. */
async function recordSent(read: () => Promise<unknown>): Promise<Sent[]> {
  const sent: Sent[] = []
  const { query } = pg.Client.prototype
  pg.Client.prototype.query = function (this: pg.Client, ...args: unknown[]) {
    sent.push(args[0] as Sent)
    return Reflect.apply(query, this, args)
  } as typeof query
  try {
    await read()
  } finally {
    pg.Client.prototype.query = query
  }
  return sent
}

/** The statement of a page, or of the page behind it. */
async function pageOf(storage: Storage, query: Query<typeof executions>, next: boolean) {
  const from = { resource: executions, tenant }
  const { next: cursor } = next ? await storage.list(from, query) : { next: null }
  const page = cursor === null ? query : { ...query, cursor }
  const sent = await recordSent(() => storage.list(from, page))
  return sent[0] as Sent
}

t.test('a page is planned for all values, and read in the order of an index', (t) =>
  withStack(t, startPostgres, async (server) => {
    const database = await server.createDatabase()
    await server.query(database, fill, 'app')
    const storage = createStorage(await openPostgres({ url: server.url(database) }))
    const client = new pg.Client({ connectionString: server.url(database) })
    await client.connect()

    async function planOf(name: string, { text, values }: Sent) {
      for (let n = 0; n < EXECUTIONS; n++) await client.query({ name, text, values })
      const prepared = await client.query(
        'select generic_plans::int as kept from pg_prepared_statements where name = $1',
        [name]
      )
      const given = values.map((value) => pg.escapeLiteral(String(value)))
      const explained = await client.query(`explain execute "${name}" (${given})`)
      const lines = explained.rows.map((row: Record<string, string>) => row['QUERY PLAN'])
      return { kept: prepared.rows[0].kept as number, plan: lines.join('\n') }
    }

    for (const [name, query] of Object.entries(queries))
      for (const limit of [1, 20, 50, 250])
        for (const next of [false, true]) {
          const what = `${limit} ${name}${next ? ', behind a cursor' : ''}`
          const sent = await pageOf(storage, { ...query, limit }, next)
          t.type(sent.name, 'string', what)
          const { kept, plan } = await planOf(what, sent)
          // How much a period is, only its values tell.
          if (!query.since) t.ok(kept > 0, `${what}: ${plan}`)
          t.match(plan, /Index Scan/, what)
          t.notMatch(plan, /Sort|Seq Scan|Bitmap/, what)
        }
    await client.end()

    const from = { resource: audit, tenant }
    const filter = { actor: 'system', action: 'secret.rotate' }
    const [both] = await recordSent(() => storage.list(from, { filter, limit: 50 }))
    t.equal(both?.name, undefined, 'of two indexes the values tell which is better')
    await storage.close()
  })
)
