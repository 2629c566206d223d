import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { exchange, llmApi, PROVIDER_KEY, readAll } from '../support/llm-api.js'
import {
  answerOddly,
  answerWith,
  beginStream,
  type Received,
  refuseWith,
  sendPiece,
  startUpstream
} from '../support/llm-upstream.js'
import { logLines } from '../support/log-lines.js'
import { type Teardown, temporaryFolder } from '../support/storages.js'

/** Throws back at us everything that we have sent, as some providers' errors do in part. */
function echo(status: number) {
  return (request: Received) => {
    const said = JSON.stringify([request.headers, request.body])
    const error = { message: said, code: PROVIDER_KEY, type: said, param: said }
    refuseWith(status, error, { 'x-request-id': PROVIDER_KEY, 'x-said': PROVIDER_KEY })(request)
  }
}

/** Everything that this process prints until the copy is taken. */
function copyOutput(t: Teardown): () => string {
  let printed = ''
  let copying = true
  for (const stream of [process.stdout, process.stderr]) {
    const { write } = stream
    stream.write = ((chunk: unknown, ...rest: never[]) => {
      if (copying) printed += String(chunk)
      return write.call(stream, chunk as string, ...rest)
    }) as typeof write
    t.teardown(() => {
      stream.write = write
    })
  }
  return () => {
    copying = false
    return printed
  }
}

t.test(
  'no key, header, prompt or answer is in a log, and no key or header in an answer',
  async (t) => {
    const upstream = await startUpstream(t)
    const path = join(temporaryFolder(t), 'logs', 'llm.log')
    const { stream, lines } = logLines()
    const printing = copyOutput(t)
    const api = await llmApi(t, upstream.url, {
      logger: { level: 'trace', stream },
      env: { LLM_LOG_PATH: path, LLM_TIMEOUT_MS: '3000', LLM_BANNED_TERMS: 'hushword' }
    })
    const ask = { prompt: 'PROMPTMARK', system: 'SYSTEMMARK hushless' }
    let answered = ''
    const everyWay = async (body: object = ask) => {
      const query = new URLSearchParams(body as Record<string, string>)
      for (const { response } of [
        exchange(api, '/llm/complete', body),
        exchange(api, '/llm/stream', body),
        exchange(api, `/llm/stream?${query}`)
      ])
        answered += JSON.stringify((await response).headers) + (await readAll(await response))
    }

    upstream.answer = answerWith('ANSWER', 'MARK')
    await everyWay()
    t.match(answered, 'ANSWERMARK')
    upstream.answer = answerOddly({ content: 'ANSWERMARK' }, {}, 'PROMPTMARK')
    await everyWay()
    for (const status of [400, 401, 403, 404, 408, 429, 500, 503]) {
      upstream.answer = echo(status)
      await everyWay()
    }
    upstream.answer = ({ response, headers }) => response.end(`${headers.authorization} no JSON`)
    await everyWay()
    upstream.answer = (request) => {
      beginStream(request)
      sendPiece(request, 'ANSWERMARK')
      request.response.end(`data: ${request.headers.authorization} no JSON\n\n`)
    }
    await everyWay()
    upstream.answer = (request) => {
      beginStream(request)
      request.response.end(`data: {"error":{"message":"${request.headers.authorization}"}}\n\n`)
    }
    await everyWay()
    upstream.answer = ({ socket }) => socket.destroy()
    await everyWay()
    upstream.answer = () => {}
    await everyWay()
    await everyWay({ ...ask, prompt: 'PROMPTMARK hushword' })
    await everyWay({ ...ask, provider: 'PROMPTMARK' })
    await everyWay({ ...ask, temperature: 99 })
    await api.send('GET', `/llm/stream?prompt=PROMPTMARK`)

    await api.app.close()
    const calls = readFileSync(path, 'utf8')
    const printed = printing()
    t.ok(calls.split('\n').length > 40, 'the calls are logged')
    const logged = lines.join('')
    t.match(logged, '/api/llm/stream')
    for (const [name, text] of Object.entries({ calls, logged, printed })) {
      for (const secret of [PROVIDER_KEY, 'MARK', 'hushword', 'x-stainless', 'authorization'])
        t.notMatch(text.toLowerCase(), secret.toLowerCase(), `${secret} in ${name}`)
      t.notMatch(text, 'prompt=', `a query in ${name}`)
    }
    t.notMatch(answered.toLowerCase(), PROVIDER_KEY.toLowerCase())
    t.notMatch(answered.toLowerCase(), 'x-stainless')
  }
)
