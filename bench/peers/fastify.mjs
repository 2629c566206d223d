// What could be: bare Fastify with the same schemas, no sign-in, no tenants and no headers to
// speak of. It logs one line for each request, as ours does, where Fastify alone logs two.
import { randomUUID } from 'node:crypto'
import fastify, { LogController } from 'fastify'
import Database from '../../adapters/storage/better-sqlite3.ts'
import { templates } from '../../schemas/templates.ts'
import { announce, output } from './log.mjs'
import { templateRow, timeOf } from './rows.mjs'

const { BENCH_ROWS = '0', BENCH_SQLITE } = process.env
const { $id: _, ...view } = templates.view
const { $id: __, ...create } = templates.create
const response = { 200: view, 201: view }
const pageSchema = {
  querystring: { type: 'object', properties: { limit: { type: 'integer', default: 50 } } },
  response: { 200: { type: 'array', items: view } }
}

const app = fastify({
  logger: { level: 'info', stream: output },
  logController: new LogController({ disableRequestLogging: true })
})
app.addHook('onResponse', ({ log, method, routeOptions, ip }, reply, done) => {
  const { statusCode: status, elapsedTime } = reply
  const duration_us = Math.round(elapsedTime * 1000)
  log.info({ method, route: routeOptions.url, status, duration_us, ip }, 'request')
  done()
})

if (BENCH_SQLITE) serveSqlite(BENCH_SQLITE)
else serveMemory()
const url = await app.listen({ port: 0, host: '127.0.0.1' })
announce({ url, pid: process.pid })

function stamped(row, at) {
  return { ...row, created_at: at, updated_at: at, version: 1 }
}

function made(body) {
  return stamped(
    { id: `tpl_${randomUUID()}`, description: '', definition: null, ...body },
    new Date().toISOString()
  )
}

function serveMemory() {
  const list = []
  const byId = new Map()
  for (let n = 0; n < Number(BENCH_ROWS); n++) {
    const row = stamped(templateRow(n), timeOf(n).toISOString())
    list.push(row)
    byId.set(row.id, row)
  }
  app.get('/templates/:id', { schema: { response } }, async ({ params }) => byId.get(params.id))
  app.get('/templates', { schema: pageSchema }, async ({ query }) =>
    list.slice(-query.limit).reverse()
  )
  app.post('/templates', { schema: { body: create, response } }, async ({ body }, reply) => {
    const row = made(body)
    byId.set(row.id, row)
    reply.code(201)
    return row
  })
}

function serveSqlite(path) {
  const db = new Database(path)
  db.pragma('journal_mode = WAL')
  db.pragma('synchronous = FULL')
  db.exec(`
    create table templates (
      tenant_id text not null, id text not null, name text not null, description text not null,
      definition text, created_at text not null, updated_at text not null,
      version integer not null, primary key (tenant_id, id)) strict;
    create index templates_list on templates (tenant_id, created_at, id);
    create table audit (
      tenant_id text not null, id text not null, actor text not null, action text not null,
      resource text not null, resource_id text not null, fields text not null, at text not null,
      request_id text, primary key (tenant_id, id)) strict;
    create index audit_list on audit (tenant_id, at, id);`)
  const get = db.prepare('select * from templates where tenant_id = ? and id = ?')
  const insert = db.prepare('insert into templates values (?, ?, ?, ?, ?, ?, ?, ?)')
  const insertAudit = db.prepare('insert into audit values (?, ?, ?, ?, ?, ?, ?, ?, ?)')
  const insertRow = (row) =>
    insert.run(
      'bench',
      row.id,
      row.name,
      row.description,
      JSON.stringify(row.definition),
      row.created_at,
      row.updated_at,
      row.version
    )
  const store = db.transaction((row, requestId) => {
    insertRow(row)
    insertAudit.run(
      'bench',
      randomUUID(),
      'bench',
      'template.create',
      'templates',
      row.id,
      '["definition","description","id","name"]',
      row.created_at,
      requestId
    )
  })
  db.transaction(() => {
    for (let n = 0; n < Number(BENCH_ROWS); n++)
      insertRow(stamped(templateRow(n), timeOf(n).toISOString()))
  })()
  app.get('/templates/:id', { schema: { response } }, async ({ params }) => {
    const row = get.get('bench', params.id)
    row.definition = JSON.parse(row.definition)
    return row
  })
  app.post('/templates', { schema: { body: create, response } }, async (request, reply) => {
    const row = made(request.body)
    store.immediate(row, request.id)
    reply.code(201)
    return row
  })
}
