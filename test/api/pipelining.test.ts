import { once } from 'node:events'
import { type AddressInfo, connect } from 'node:net'
import { setImmediate as nextTurn } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { testApi } from '../support/api.js'
import { exchangeRaw } from '../support/raw-http.js'
import { memory } from '../support/storages.js'
import { troubledStorage } from '../support/troubled-storage.js'

/** An API that listens, with a flow, whose storage counts what it is asked and waits to be let go on. */
async function heldUpApi(t: Test) {
  const storage = await memory.open(t)
  const troubled = troubledStorage(storage)
  const api = await testApi(t, { storage: troubled.storage })
  const admin = await api.register()
  await admin.send('PUT', '/flows/f', { name: 'F' })
  await api.app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = api.app.server.address() as AddressInfo
  let goOn = () => {}
  const held = new Promise<void>((resolve) => {
    goOn = resolve
  })
  let asked = 0
  const list = async (...given: Parameters<typeof storage.list>) => {
    asked++
    await held
    return storage.list(...given)
  }
  const request = `GET /api/flows HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${admin.token}\r\n\r\n`
  return {
    port,
    request,
    server: api.app.server,
    asked: () => asked,
    goOn,
    holdUp: <T>(during: () => Promise<T>) => troubled.trouble({ list: list as never }, during)
  }
}

t.test('requests that come together are answered one after the other, and all', async (t) => {
  const { port, request, asked, goOn, holdUp } = await heldUpApi(t)
  const last = request.replace('\r\n\r\n', '\r\nConnection: close\r\n\r\n')
  await holdUp(async () => {
    const answers = exchangeRaw(port, request.repeat(100) + last, { halfClose: false })
    while (asked() === 0) await nextTurn()
    for (let turn = 0; turn < 20; turn++) await nextTurn()
    t.equal(asked(), 1)
    goOn()
    const bodies = (await answers).map(({ statusCode, body }) => [
      statusCode,
      JSON.parse(body).length
    ])
    t.strictSame(bodies, Array(101).fill([200, 1]))
    t.equal(asked(), 101)
  })
})

t.test('of who leaves, only the first is begun', async (t) => {
  const { port, request, server, asked, goOn, holdUp } = await heldUpApi(t)
  await holdUp(async () => {
    const connected = once(server, 'connection')
    const client = connect(port, '127.0.0.1')
    client.write(request.repeat(100))
    const [connection] = await connected
    while (asked() === 0) await nextTurn()
    const closed = once(connection, 'close')
    client.destroy()
    await closed
    goOn()
    for (let turn = 0; turn < 20; turn++) await nextTurn()
    t.equal(asked(), 1)
    const [answer] = await exchangeRaw(port, request)
    t.equal(answer?.statusCode, 200, 'others are served')
  })
})

t.test('a connection on which too many wait is closed, and others are not', async (t) => {
  const { port, request, asked, goOn, holdUp } = await heldUpApi(t)
  await holdUp(async () => {
    t.strictSame(await exchangeRaw(port, request.repeat(1500), { halfClose: false }), [])
    t.equal(asked(), 1)
    goOn()
    const [answer] = await exchangeRaw(port, request)
    t.equal(answer?.statusCode, 200)
  })
})
