import t from 'tap'
import { testApi } from '../support/api.js'

const ofData = {
  'content-security-policy': "default-src 'none';frame-ancestors 'none'",
  'cross-origin-resource-policy': 'same-origin',
  'referrer-policy': 'no-referrer',
  'strict-transport-security': 'max-age=31536000; includeSubDomains',
  'x-content-type-options': 'nosniff',
  'x-frame-options': 'SAMEORIGIN'
}
const ofPages = {
  'cross-origin-opener-policy': 'same-origin',
  'origin-agent-cluster': '?1',
  'x-dns-prefetch-control': 'off',
  'x-download-options': 'noopen',
  'x-permitted-cross-domain-policies': 'none',
  'x-xss-protection': '0'
}

t.test('every answer says what a browser may do with it', async (t) => {
  const { app } = await testApi(t)
  for (const [url, status] of [
    ['/api/health', 200],
    ['/api/openapi.json', 200],
    ['/api/users', 401],
    ['/nowhere', 404]
  ] as const) {
    const answer = await app.inject(url)
    t.equal(answer.statusCode, status)
    t.match(answer.headers, ofData, url)
  }
  for (const url of ['/api/docs/', '/api/docs/static/swagger-ui-bundle.js']) {
    const { headers } = await app.inject(url)
    const { 'content-security-policy': policy, ...others } = { ...ofData, ...ofPages }
    t.match(headers, others, url)
    t.match(headers['content-security-policy'], /^default-src 'none';.*frame-ancestors 'none'/, url)
  }
})
