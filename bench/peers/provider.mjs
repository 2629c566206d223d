// A provider that costs next to nothing: answers chat completions at once, whole or in ten pieces,
// and leaves open those streams whose prompt is "Hold".
import { createServer } from 'node:http'
import { announce } from './log.mjs'

const about = { id: 'chatcmpl-1', created: 1_769_851_800, model: 'bench' }
const content = 'An answer '.repeat(10)
const usage = { prompt_tokens: 9, completion_tokens: 20, total_tokens: 29 }
const whole = JSON.stringify({
  ...about,
  object: 'chat.completion',
  choices: [{ index: 0, message: { role: 'assistant', content }, finish_reason: 'stop' }],
  usage
})
const piece = chunk({ content: 'An answer ' }, null)
const pieces = `${piece.repeat(10)}${chunk({}, 'stop')}data: [DONE]\n\n`

const server = createServer((request, response) => {
  let body = ''
  request.setEncoding('utf8').on('data', (text) => {
    body += text
  })
  request.on('end', () => {
    const { stream, messages } = JSON.parse(body)
    if (!stream) {
      response.writeHead(200, {
        'content-type': 'application/json',
        'content-length': Buffer.byteLength(whole)
      })
      response.end(whole)
      return
    }
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    if (messages.at(-1).content === 'Hold') response.write(piece)
    else response.end(pieces)
  })
})
server.listen(0, '127.0.0.1', () => {
  announce({ url: `http://127.0.0.1:${server.address().port}/v1`, pid: process.pid })
})

function chunk(delta, finish_reason) {
  const choices = [{ index: 0, delta, finish_reason }]
  return `data: ${JSON.stringify({ ...about, object: 'chat.completion.chunk', choices })}\n\n`
}
