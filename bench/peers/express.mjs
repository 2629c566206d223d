// Express as many know it: parses, pushes into an array, answers, and keeps nothing. It logs as
// pino's own middleware does, or as little as ours.
import { randomUUID } from 'node:crypto'
import express from 'express'
import { pino } from 'pino'
import { pinoHttp } from 'pino-http'
import { announce, output } from './log.mjs'

const log = pino({ level: 'info' }, output)
const rows = []
const app = express()
app.use(process.env.BENCH_LOGGER === 'pino-http' ? pinoHttp({ logger: log }) : leanLog)
app.use(express.json())
app.post('/templates', ({ body }, response) => {
  const at = new Date().toISOString()
  const row = { id: `tpl_${randomUUID()}`, ...body, created_at: at, updated_at: at, version: 1 }
  rows.push(row)
  response.status(201).json(row)
})
const server = app.listen(0, '127.0.0.1', () =>
  announce({ url: `http://127.0.0.1:${server.address().port}`, pid: process.pid })
)

/** What ours says of a request, and no more. */
function leanLog(request, response, next) {
  const start = process.hrtime.bigint()
  response.on('finish', () => {
    const duration_us = Number((process.hrtime.bigint() - start) / 1000n)
    const { method, path, ip } = request
    log.info({ method, route: path, status: response.statusCode, duration_us, ip }, 'request')
  })
  next()
}
