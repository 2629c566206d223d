// The openai package as it comes, in a route of bare Fastify that checks and logs as ours do; and a
// route that answers the same at once, which is the least that an answer from a cache can cost.
import fastify, { LogController } from 'fastify'
import OpenAI from 'openai'
import { LlmCompletion, LlmRequest, LlmTokens } from '../../schemas/llm.ts'
import { announce, output } from './log.mjs'

const client = new OpenAI({ apiKey: 'k', baseURL: process.env.OPENAI_BASE_URL })
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
app.addSchema(LlmTokens)
const { $id: _, ...answer } = LlmCompletion
const { $id: __, ...body } = LlmRequest
const schema = { body, response: { 200: answer } }

app.post('/complete', { schema }, ({ body }) => complete(body.prompt))
app.post('/constant', { schema }, async () => constant)
const constant = await complete('Hi')
const url = await app.listen({ port: 0, host: '127.0.0.1' })
announce({ url, pid: process.pid })

async function complete(prompt) {
  const messages = [{ role: 'user', content: prompt }]
  const { choices, model, created, usage } = await client.chat.completions.create({
    model: 'bench',
    messages
  })
  const [{ message, finish_reason }] = choices
  return { content: message.content, model, created, usage, finish_reason }
}
