import t from 'tap'
import { testApi } from '../support/api.js'

const origin = 'https://app.example.com'

t.test('an OPTIONS is answered as a preflight, whatever it lacks', async (t) => {
  const { app } = await testApi(t, { env: { CORS_ORIGIN: origin } })
  const asked = { 'access-control-request-method': 'PUT' }
  for (const headers of [{ origin, ...asked }, { origin }, asked, {}])
    for (const url of ['/api/flows/x', '/nowhere']) {
      const answer = await app.inject({ method: 'OPTIONS', url, headers })
      t.equal(answer.statusCode, 204, `${url} ${Object.keys(headers)}`)
      t.equal(answer.body, '')
      t.match(answer.headers['access-control-allow-methods'], /PUT/)
      t.equal(answer.headers['access-control-max-age'], '600')
      t.equal(
        answer.headers['access-control-allow-origin'],
        'origin' in headers ? origin : undefined
      )
    }
})

t.test('a refusal is for pages of the origin to read, as an answer is', async (t) => {
  const { app } = await testApi(t, { env: { CORS_ORIGIN: origin } })
  for (const [status, url] of [
    [400, '/%zz'],
    [400, '/api/flows/%ff'],
    [400, '/api/health?%'],
    [401, `/api/flows/${'a'.repeat(2000)}`],
    [404, '/nowhere']
  ] as const) {
    const { statusCode, headers } = await app.inject({ url, headers: { origin } })
    t.equal(statusCode, status, url)
    t.equal(headers['access-control-allow-origin'], origin, url)
    t.match(headers['access-control-expose-headers'], /X-Request-ID/i, url)
    t.match(
      headers,
      { 'x-content-type-options': 'nosniff', 'x-request-id': /^[0-9a-f-]{36}$/ },
      url
    )
  }
})

t.test('another origin is allowed nothing', async (t) => {
  const { app } = await testApi(t, { env: { CORS_ORIGIN: origin } })
  const headers = { origin: 'https://evil.example.com', 'access-control-request-method': 'PUT' }
  const answer = await app.inject({ method: 'OPTIONS', url: '/api/flows/x', headers })
  t.notOk(answer.headers['access-control-allow-origin'])
})

t.test('any origin is allowed where * is all that the list has', async (t) => {
  for (const CORS_ORIGIN of ['*', '*,']) {
    const { app } = await testApi(t, { env: { CORS_ORIGIN } })
    const answer = await app.inject({ method: 'OPTIONS', url: '/api/flows/x', headers: { origin } })
    t.equal(answer.headers['access-control-allow-origin'], '*', CORS_ORIGIN)
  }
})

t.test('without CORS_ORIGIN an OPTIONS finds nothing', async (t) => {
  const { app } = await testApi(t)
  const answer = await app.inject({ method: 'OPTIONS', url: '/api/flows/x', headers: { origin } })
  t.match(answer.json(), { status: 404, code: 'route_not_found' })
  t.match(answer.headers['content-type'], 'application/problem+json')
})
