import type { AddressInfo } from 'node:net'
import t from 'tap'
import { testApi } from '../../support/api.js'
import { exchangeRaw } from '../../support/raw-http.js'

const smuggled = 'GET /api/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n'
const login = '{"email":"a@example.com","password":"x"}'
const start = 'POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n'
/** Chunks of nothing, after which a server that reads the length sees another request. */
const nothing = `0\r\n\r\n${smuggled}`

/** Requests whose end two programs could see in two places: none of them may be two requests. */
const refused: Readonly<Record<string, string>> = {
  'Content-Length and Transfer-Encoding': `${start}Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n${nothing}`,
  'Transfer-Encoding and Content-Length': `${start}Transfer-Encoding: chunked\r\nContent-Length: ${nothing.length}\r\n\r\n${nothing}`,
  'an unknown encoding': `${start}Transfer-Encoding: xchunked\r\n\r\n${nothing}`,
  'identity as an encoding': `${start}Transfer-Encoding: identity\r\nContent-Length: 5\r\n\r\n${nothing}`,
  'chunked, then something else': `${start}Transfer-Encoding: chunked, identity\r\n\r\n${nothing}`,
  'chunked in one of two headers': `${start}Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n\r\n${nothing}`,
  'a space before the colon': `${start}Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n${nothing}`,
  'a tab before the colon': `${start}Transfer-Encoding\t: chunked\r\nContent-Length: 5\r\n\r\n${nothing}`,
  'a vertical tab in the value': `${start}Transfer-Encoding: \x0bchunked\r\n\r\n${nothing}`,
  'NUL in the value': `${start}Transfer-Encoding: chunked\0\r\n\r\n${nothing}`,
  'quotes around the value': `${start}Transfer-Encoding: "chunked"\r\n\r\n${nothing}`,
  'a header that is folded': `${start}Transfer-Encoding:\r\n chunked\r\nContent-Length: 5\r\n\r\n${nothing}`,
  'a folded value': `${start}X: a\r\n Transfer-Encoding: chunked\r\n\r\n${nothing}`,
  'a line that begins with a space': `POST /api/auth/login HTTP/1.1\r\n Host: x\r\n\r\n${smuggled}`,
  'two lengths': `${start}Content-Length: 5\r\nContent-Length: 0\r\n\r\n12345${smuggled}`,
  'the same length twice': `${start}Content-Length: 5\r\nContent-Length: 5\r\n\r\n12345${smuggled}`,
  'a list of lengths': `${start}Content-Length: 5, 5\r\n\r\n12345${smuggled}`,
  'a length with a sign': `${start}Content-Length: +5\r\n\r\n12345${smuggled}`,
  'a negative length': `${start}Content-Length: -5\r\n\r\n12345${smuggled}`,
  'a length in hex': `${start}Content-Length: 0x5\r\n\r\n12345${smuggled}`,
  'a length with a space in it': `${start}Content-Length: 5 5\r\n\r\n12345${smuggled}`,
  'no length': `${start}Content-Length:\r\n\r\n12345${smuggled}`,
  'a length beyond 64 bits': `${start}Content-Length: 18446744073709551621\r\n\r\n12345${smuggled}`,
  'a chunk size that is none': `${start}Transfer-Encoding: chunked\r\n\r\nzz\r\n${nothing}`,
  'a chunk size with a sign': `${start}Transfer-Encoding: chunked\r\n\r\n-5\r\n12345\r\n${nothing}`,
  'a chunk size with 0x': `${start}Transfer-Encoding: chunked\r\n\r\n0x5\r\n12345\r\n${nothing}`,
  'a chunk size beyond 64 bits': `${start}Transfer-Encoding: chunked\r\n\r\n10000000000000005\r\n12345\r\n${nothing}`,
  'a chunk longer than it says': `${start}Transfer-Encoding: chunked\r\n\r\n2\r\n12345\r\n${nothing}`,
  'a chunk that ends with LF': `${start}Transfer-Encoding: chunked\r\n\r\n5\r\n12345\n${nothing}`,
  'a chunk size that ends with LF': `${start}Transfer-Encoding: chunked\r\n\r\n5\n12345\r\n${nothing}`,
  'a chunk extension with LF in it': `${start}Transfer-Encoding: chunked\r\n\r\n5;a\nb\r\n12345\r\n${nothing}`,
  'lines that end with LF': `POST /api/auth/login HTTP/1.1\nHost: x\nContent-Length: 0\n\n${smuggled}`,
  'a header that ends with LF': `${start}X: a\nTransfer-Encoding: chunked\r\n\r\n${nothing}`,
  'a header that ends with CR': `${start}X: a\rTransfer-Encoding: chunked\r\n\r\n${nothing}`,
  'a header without a name': `${start}: chunked\r\n\r\n${nothing}`,
  'a header without a colon': `${start}Transfer-Encoding chunked\r\n\r\n${nothing}`,
  'a header with a bracket in its name': `${start}Transfer(Encoding: chunked\r\n\r\n${nothing}`,
  'a space in the target': `GET /api/health HTTP/1.1\r\nHost: x HTTP/1.1\r\n GET / HTTP/1.1\r\n\r\n${smuggled}`,
  'two targets': `GET /api/health /api/ready HTTP/1.1\r\nHost: x\r\n\r\n${smuggled}`,
  'the start of HTTP/2': `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${smuggled}`,
  'no version': `GET /api/health\r\n\r\n${smuggled}`,
  'a version of its own': `GET /api/health HTTP/1.2\r\nHost: x\r\n\r\n${smuggled}`
}

/** Requests that are well-formed: what looks like another one belongs to their body. */
const whole: Readonly<Record<string, { request: string; status: number }>> = {
  'a body that looks like a request': {
    request: `${start}Content-Length: ${smuggled.length}\r\nConnection: close\r\n\r\n${smuggled}`,
    status: 400
  },
  'a body of a GET': {
    request: `GET /api/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: ${smuggled.length}\r\n\r\n${smuggled}`,
    status: 200
  },
  'a body in chunks of a GET': {
    request: `GET /api/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n${smuggled.length.toString(16)}\r\n${smuggled}\r\n0\r\n\r\n`,
    status: 200
  },
  'a body of a request that is refused before it is read': {
    request: `POST /api/flows HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: ${smuggled.length}\r\n\r\n${smuggled}`,
    status: 401
  },
  'a body of a route that does not exist': {
    request: `DELETE /api/nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: ${smuggled.length}\r\n\r\n${smuggled}`,
    status: 404
  },
  'no Host, which comes before no route': {
    request: 'GET /api/nothing HTTP/1.1\r\nConnection: close\r\n\r\n',
    status: 400
  },
  'a header that only looks like chunked': {
    request: `${start}Transfer_Encoding: chunked\r\nContent-Length: ${login.length}\r\nConnection: close\r\n\r\n${login}`,
    status: 401
  },
  'a whole address as the target (RFC 9112, 3.2.2)': {
    request:
      'GET http://elsewhere.example/api/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n',
    status: 200
  },
  'an upgrade that nobody asked for': {
    request:
      'GET /api/health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n',
    status: 200
  }
}

t.test('requests that two programs would read differently are refused', async (t) => {
  const { app } = await testApi(t)
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  for (const [what, request] of Object.entries(refused)) {
    // The server has to close: this end keeps its half open.
    const answers = await exchangeRaw(port, request, { halfClose: false })
    t.strictSame(
      answers.map(({ statusCode }) => statusCode),
      [400],
      what
    )
    t.equal(answers[0]?.headers.connection, 'close', what)
  }
  for (const [what, { request, status }] of Object.entries(whole)) {
    const answers = await exchangeRaw(port, request, { halfClose: false })
    t.strictSame(
      answers.map(({ statusCode }) => statusCode),
      [status],
      what
    )
  }
  const tunnel = `CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n${smuggled}`
  t.strictSame(await exchangeRaw(port, tunnel, { halfClose: false }), [], 'this is no proxy')
  const shapes = Object.keys({ ...refused, ...whole, tunnel }).length
  t.comment(`${shapes} shapes of requests over a socket`)
})

t.test('no path leads out of the files of the documentation', async (t) => {
  const { app } = await testApi(t)
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  const up = ['..', '%2e%2e', '.%2e', '%252e%252e', '..;', '..%00', '%c0%ae%c0%ae', '....', '..%5c']
  const separators = ['/', '%2f', '%5c', '\\', '%252f', '//']
  const targets = ['package.json', 'etc/passwd', 'index.js']
  let tried = 0
  for (const [step, separator, target, times] of combinations(up, separators, targets, [1, 3, 8])) {
    const path = `/api/docs/static/${`${step}${separator}`.repeat(times)}${target}`
    for (const url of [path, path.replace('/static', ''), path.replace('/api/docs/static', '')]) {
      tried++
      const request = `GET ${url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`
      const [answer] = await exchangeRaw(port, request, { halfClose: false })
      const { statusCode = 0, body = '' } = answer ?? {}
      if (![400, 403, 404].includes(statusCode)) t.fail(`${statusCode} ${url}`)
      if (/"version"|root:|require\(/.test(body)) t.fail(`a file: ${url}`)
      if (answer?.headers.location) t.fail(`a redirect: ${url}`)
    }
  }
  t.ok(tried > 1000)
  t.comment(`${tried} paths`)
})

function combinations<A, B, C, D>(a: A[], b: B[], c: C[], d: D[]): [A, B, C, D][] {
  return a.flatMap((w) =>
    b.flatMap((x) => c.flatMap((y) => d.map((z): [A, B, C, D] => [w, x, y, z])))
  )
}
