import { once } from 'node:events'
import { type AddressInfo, connect } from 'node:net'
import { setImmediate as nextTurn } from 'node:timers/promises'
import t from 'tap'
import { testApi } from '../support/api.js'
import { logLines } from '../support/log-lines.js'

const body = JSON.stringify({ email: 'nobody@example.com', password: 'not known here' })
const signIn = `POST /api/auth/login HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.1\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`

for (const TRUST_PROXY of ['', 'loopback'])
  t.test(
    `a client that resets the connection is no fault of ours: ${TRUST_PROXY || 'no proxy'}`,
    async (t) => {
      const { stream, lines } = logLines()
      const { app } = await testApi(t, { env: { TRUST_PROXY }, logger: { level: 'info', stream } })
      await app.listen({ port: 0, host: '127.0.0.1' })
      const client = connect((app.server.address() as AddressInfo).port, '127.0.0.1')
      await once(client, 'connect')
      const received = once(app.server, 'request')
      client.write(signIn)
      client.resetAndDestroy()
      const [, response] = await received
      if (!response.closed) await once(response, 'close')
      const failed = lines.filter((line) => JSON.parse(line).level > 30)
      t.strictSame(failed, [], 'nothing has failed')
    }
  )

t.test('nor is one that leaves in the middle of its body', async (t) => {
  const { stream, lines } = logLines()
  const { app } = await testApi(t, { logger: { level: 'error', stream } })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const client = connect((app.server.address() as AddressInfo).port, '127.0.0.1')
  const received = once(app.server, 'request')
  client.write(signIn.slice(0, -1))
  const [request] = await received
  while (request.listenerCount('data') === 0) await nextTurn()
  const aborted = new Promise((resolve) => request.once('error', resolve))
  client.destroy()
  t.match(await aborted, { code: 'ECONNRESET' })
  // By now the API has been told, too.
  await nextTurn()
  t.strictSame(lines, [])
})
