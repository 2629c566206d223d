import type { AddressInfo } from 'node:net'
import { gzipSync } from 'node:zlib'
import type { InjectOptions } from 'fastify'
import t, { type Test } from 'tap'
import { encodeCursor, listDigest } from '../../adapters/storage/cursor.js'
import { ACROSS_TENANTS, type TenantId } from '../../adapters/storage/port.js'
import { flows } from '../../schemas/flows.js'
import { users } from '../../schemas/users.js'
import { type ProblemCode, problems } from '../../src/problems.js'
import { type Person, type TestApi, testApi } from '../support/api.js'
import { exchangeRaw } from '../support/raw-http.js'
import { snapshotOf } from '../support/snapshot.js'
import { type Teardown, type TestStorage, testStorages } from '../support/storages.js'

type Method = NonNullable<InjectOptions['method']>
type Headers = Readonly<Record<string, string>>
/** A request, and the code of the problem that answers it. */
type Bad = [
  code: ProblemCode,
  method: Method,
  url: string,
  body?: unknown,
  headers?: Headers | undefined
]

const json = { 'content-type': 'application/json' }
const name = 'Changed'
const current_password = 'the one that they have'
const longest = 'a'.repeat(128)
const megabyte = 2 ** 20

const malformedJson: Bad[] = [
  ...[
    '{',
    'nope',
    'NaN',
    'undefined',
    "{'name':'x'}",
    '{name:"x"}',
    '{"name":"x",}',
    '{"name":"x"} {}',
    '{"name":"x"',
    '{"name":"a\nb"}',
    '{"name":"\\x41"}',
    '{"name":01}',
    '{"name":Infinity}',
    '\0',
    '// {"name":"x"}',
    '['.repeat(megabyte / 2),
    '{"a":'.repeat(megabyte / 8)
  ].map((text): Bad => ['malformed_json', 'POST', '/flows', text, json]),
  ['malformed_json', 'POST', '/flows', '', json],
  ['malformed_json', 'POST', '/flows', ' ', json],
  // Not UTF-8: a byte that never occurs, half of an emoji, a surrogate, a form that is too long.
  ...[[0xff], [0xf0, 0x9f, 0x98], [0xed, 0xa0, 0x80], [0xc0, 0xaf]].map((bytes): Bad => {
    const text = Buffer.concat([Buffer.from('{"name":"'), Buffer.from(bytes), Buffer.from('"}')])
    return ['malformed_json', 'POST', '/flows', text, json]
  })
]

const wrongTypes: Bad[] = [
  ...[5, null, [], {}, true, [name]].map((wrong): Bad => {
    return ['validation_failed', 'POST', '/flows', { name: wrong }]
  }),
  ...['[]', '"x"', '5', 'null', 'true', '[{"name":"x"}]'].map((text): Bad => {
    return ['validation_failed', 'POST', '/flows', text, json]
  }),
  ['validation_failed', 'POST', '/flows', {}],
  ['validation_failed', 'POST', '/flows', { name, status: 1 }],
  ['validation_failed', 'POST', '/flows', { name, status: null }],
  ['validation_failed', 'POST', '/flows', { name, template_id: 5 }],
  ['validation_failed', 'POST', '/flows', { name, id: 5 }],
  ['validation_failed', 'POST', '/templates', { name, description: null }],
  ['validation_failed', 'PATCH', '/flows/f', { name: null }],
  ['validation_failed', 'PATCH', '/flows/f', {}],
  ['validation_failed', 'PATCH', '/flows/f'],
  ['validation_failed', 'PATCH', '/users/me', {}],
  ['validation_failed', 'PATCH', '/users/me', { current_password }],
  ['validation_failed', 'PATCH', '/users/me', { name, current_password: null }],
  ['validation_failed', 'PATCH', '/users/me', { password: 'long enough', current_password: 5 }],
  ['validation_failed', 'PUT', '/flows/f', {}],
  ['validation_failed', 'PUT', '/secrets/S', { value: 5 }],
  ['validation_failed', 'PUT', '/secrets/S', {}],
  ['validation_failed', 'PATCH', '/secrets/S', {}],
  ['validation_failed', 'PATCH', '/secrets/S', { value: null }],
  ['validation_failed', 'POST', '/auth/login', { email: ['a@b.cd'], password: 'x' }],
  ['validation_failed', 'POST', '/auth/login', { email: 'a@b.cd', password: { $ne: '' } }],
  ['validation_failed', 'POST', '/auth/refresh', { refresh_token: 5 }]
]

const unknownFields: Bad[] = [
  ['validation_failed', 'POST', '/flows', { name, extra: 1 }],
  ['validation_failed', 'POST', '/flows', { name, Name: name }],
  ['validation_failed', 'POST', '/flows', { name, '': 1 }],
  ['validation_failed', 'POST', '/flows', { name, toString: 1 }],
  ['validation_failed', 'POST', '/flows', { name, constructor: 1 }],
  ['validation_failed', 'POST', '/flows', { name, tenant_id: 'x' }],
  ['validation_failed', 'POST', '/flows', { name, version: 1 }],
  ['validation_failed', 'PATCH', '/flows/f', { name, id: 'g' }],
  ['validation_failed', 'PATCH', '/flows/f', { name, created_at: '2026-01-01T00:00:00.000Z' }],
  ['validation_failed', 'PUT', '/flows/f', { name, id: 'f' }],
  ['validation_failed', 'PUT', '/secrets/S', { value: 'v', ciphertext: 'c' }],
  ['validation_failed', 'PATCH', '/secrets/S', { value: 'v', ciphertext: 'c' }],
  ['validation_failed', 'PATCH', '/users/me', { role: 'admin' }],
  ['validation_failed', 'PATCH', '/users/me', { name, old_password: 'x' }],
  ['validation_failed', 'PATCH', '/users/me', { name, password_hash: null }],
  ['validation_failed', 'PATCH', '/users/me', { name, tenant_name: 'Other' }],
  ['validation_failed', 'POST', '/flows/f/executions', { status: 'success' }],
  ['validation_failed', 'POST', '/templates/t/flows', { definition: {} }],
  ['validation_failed', 'POST', '/flows/f/deploy', { status: 'draft' }],
  ['validation_failed', 'POST', '/auth/logout', { everywhere: true }],
  ['validation_failed', 'DELETE', '/flows/f', { id: 'other' }],
  ['validation_failed', 'DELETE', '/flows/f', '[]', json]
]

const queries: Bad[] = [
  ...[
    'nope=1',
    'LIMIT=1',
    'tenant_id=x',
    'constructor=x',
    'limit[]=1',
    '=',
    'limit=1&limit=2',
    'limit=1&limit=1',
    'status=draft&status=active',
    'cursor=a&cursor=b',
    'limit=0',
    'limit=-1',
    'limit=251',
    'limit=1e9',
    'limit=1.5',
    'limit=abc',
    'limit=',
    'limit=NaN',
    'limit=Infinity',
    'limit=-Infinity',
    'limit=9007199254740993',
    'limit=0x10',
    'limit=1e1',
    'limit=%2010',
    'order=newest',
    'order=DESC',
    'order=',
    'count=EXACT',
    'count=',
    'status=Draft',
    'status=',
    'template_id=',
    'template_id=a/b',
    'template_id=null%20',
    `template_id=${longest}a`,
    'since=2026-01-01T00:00:00.000Z',
    `cursor=${'a'.repeat(1025)}`
  ].map((query): Bad => ['validation_failed', 'GET', `/flows?${query}`]),
  ['unsafe_value', 'GET', '/flows?template_id=%00'],
  ['unsafe_value', 'GET', '/audit?actor=a%00b'],
  ['unsafe_value', 'GET', '/flows?a%00b=1'],
  ['unsafe_value', 'GET', '/flows?__proto__=x'],
  ...['', 'nope', '€', 'bnVsbA', 'W10'].map((cursor): Bad => {
    return ['bad_cursor', 'GET', `/flows?cursor=${encodeURIComponent(cursor)}`]
  }),
  ['validation_failed', 'GET', '/flows/f?nope=1'],
  ['validation_failed', 'POST', '/flows?limit=1', { name }],
  ['validation_failed', 'DELETE', '/flows/f?force=true'],
  ['validation_failed', 'GET', '/health?verbose'],
  ['validation_failed', 'GET', '/users?email=nobody'],
  ['validation_failed', 'GET', '/users?role=Admin'],
  ['validation_failed', 'GET', '/connections?provider='],
  ['validation_failed', 'GET', '/connections?provider=%20%20'],
  ['validation_failed', 'GET', `/audit?actor=${'a'.repeat(129)}`]
]

/** Not a time, at least not one between the years 1 and 9999. */
const badTimes = [
  '',
  ' ',
  'now',
  'yesterday',
  '1767225600',
  '2026-01-31',
  '2026-01-31T09:30:00',
  '2026-02-30T00:00:00Z',
  '2025-02-29T00:00:00Z',
  '2026-13-01T00:00:00Z',
  '2026-01-01T24:00:00Z',
  '2026-01-01T00:60:00Z',
  '2016-12-31T23:59:60Z',
  '2026-01-01T00:00:00+24:00',
  '2026-01-01T00:00:00+05',
  '2026-01-01T00:00:00+0530',
  '2026-01-01 00:00:00Z',
  '2026-01-01\n00:00:00Z',
  '0050-01-01\u00a000:00:00Z',
  '2026-01-01T00:00:00Z\n',
  '2026-01-01T00:00:00,5Z',
  '0000-01-01T00:00:00Z',
  '0001-01-01T00:00:00+05:00',
  '9999-12-31T23:59:59-01:00',
  '10000-01-01T00:00:00Z',
  '+010000-01-01T00:00:00Z',
  '-000001-01-01T00:00:00Z',
  '２０２６-01-01T00:00:00Z'
]
const times: Bad[] = badTimes.flatMap((time): Bad[] => [
  ['validation_failed', 'GET', `/executions?since=${encodeURIComponent(time)}`],
  ['validation_failed', 'GET', `/audit?until=${encodeURIComponent(time)}`],
  ['validation_failed', 'PUT', '/secrets/S', { value: 'v', expires_at: time }]
])

const contentTypes: Bad[] = [
  'text/plain',
  'text/plain; charset=utf-8',
  'application/x-www-form-urlencoded',
  'multipart/form-data; boundary=x',
  'application/xml',
  'application/octet-stream',
  'application/merge-patch+json',
  'application/jsonp',
  'application/json, text/plain',
  'application/json; charset=latin1',
  'application/json; charset="utf-16"',
  'application/json;charset=UTF-16LE',
  'json',
  '/',
  '*/*'
].flatMap((type): Bad[] => [
  ['unsupported_media_type', 'POST', '/flows', '{"name":"x"}', { 'content-type': type }],
  ['unsupported_media_type', 'PATCH', '/flows/f', 'name=x', { 'content-type': type }]
])
contentTypes.push(
  ['unsupported_media_type', 'POST', '/flows', '{"name":"x"}'],
  ['unsupported_media_type', 'POST', '/flows/f/deploy', 'x', { 'content-type': 'text/plain' }],
  ['unsupported_media_type', 'DELETE', '/flows/f', 'x'],
  ...['gzip', 'br', 'identity, gzip', 'no such'].map((encoding): Bad => {
    const headers = { ...json, 'content-encoding': encoding }
    return ['unsupported_media_type', 'POST', '/flows', '{"name":"x"}', headers]
  })
)

const ids: Bad[] = [
  ['validation_failed', 'PUT', '/flows/a%2Fb', { name }],
  ['validation_failed', 'PUT', '/flows/..%2F..%2Fusers', { name }],
  ['validation_failed', 'PUT', '/flows/a%5Cb', { name }],
  ['validation_failed', 'PUT', '/flows/%20', { name }],
  ['validation_failed', 'PUT', '/flows/a%0A', { name }],
  ['validation_failed', 'PUT', '/flows/.hidden', { name }],
  ['validation_failed', 'PUT', '/flows/-', { name }],
  ['validation_failed', 'PUT', '/flows/%C3%A9', { name }],
  ['validation_failed', 'PUT', `/flows/${longest}a`, { name }],
  ['validation_failed', 'PUT', `/flows/${'a'.repeat(1537)}`, { name }],
  ['validation_failed', 'GET', `/flows/${'a'.repeat(10_000)}`],
  ['validation_failed', 'GET', `/secrets/${'%F0%9F%98%80'.repeat(1000)}`],
  ['route_not_found', 'PUT', '/flows/a/b', { name }],
  ['route_not_found', 'PUT', '/flows//', { name }],
  ['route_not_found', 'GET', '/../flows'],
  ['validation_failed', 'GET', '/flows/'],
  ['bad_request', 'GET', '/flows/%zz'],
  ['bad_request', 'GET', '/flows/%'],
  ['bad_request', 'GET', '/flows/%ED%A0%80'],
  ['bad_request', 'PUT', '/secrets/%ff', { value: 'v' }],
  ['bad_request', 'DELETE', '/flows/f%'],
  ['bad_request', 'GET', '/%c0%af'],
  // Nor is a query taken as it stands that cannot be decoded.
  ['bad_request', 'GET', '/audit?resource_id=%ff'],
  ['bad_request', 'GET', '/connections?provider=caf%E9%20au%20lait'],
  ['bad_request', 'GET', '/llm/stream?prompt=100%+sure'],
  ['bad_request', 'GET', '/flows?%=1'],
  ['unsafe_value', 'GET', '/flows/%00'],
  ['unsafe_value', 'PUT', '/flows/a%00b', { name }],
  ['unsafe_value', 'PUT', '/secrets/a%00', { value: 'v' }],
  ...['', ' ', 'a/b', '../x', 'a b', '-a', '.', 'é', 'a\n', `${longest}a`].map((id): Bad => {
    return ['validation_failed', 'POST', '/flows', { id, name }]
  }),
  ...['', ' ', '.', '..', 'a/b', 'a\\b', 'a b', '\t', 'a\u200d', '\u2028', `${longest}a`].map(
    (id): Bad => ['validation_failed', 'POST', '/secrets', { name: id, value: 'v' }]
  ),
  ['validation_failed', 'PUT', '/secrets/a%2Fb', { value: 'v' }],
  ['validation_failed', 'GET', '/users/nope'],
  ['validation_failed', 'GET', '/executions/1'],
  ['validation_failed', 'GET', '/users/019b76da-a800-7000-8000-00000000000'],
  ['validation_failed', 'DELETE', '/users/me'],
  ['not_found', 'GET', '/users/019b76da-a800-7000-8000-000000000000'],
  ['not_found', 'GET', '/flows/F'],
  ['not_found', 'GET', '/flows/me'],
  ['not_found', 'PATCH', '/flows/nope', { name }],
  ['not_found', 'DELETE', '/flows/nope'],
  ['not_found', 'POST', '/flows/nope/deploy'],
  ['not_found', 'POST', '/templates/nope/flows', {}],
  ['not_found', 'GET', '/flows/nope/executions'],
  ['not_found', 'POST', '/flows/nope/executions', {}]
]

/** Where a value of any kind may stand, and a key of any name. */
function unsafe(value: unknown): Bad[] {
  return [
    ['unsafe_value', 'PUT', '/flows/f', { name, definition: value }],
    ['unsafe_value', 'PATCH', '/flows/f', { definition: { steps: [{ deep: [value] }] } }],
    ['unsafe_value', 'POST', '/flows/f/executions', { input: [value] }]
  ]
}
const unsafeValues: Bad[] = [
  ...['a\0b', '\0', '\ud800', 'a\udc00', '\udc00\ud800', '\ud83d \ude00'].flatMap((text): Bad[] => [
    ['unsafe_value', 'POST', '/flows', { name: text }],
    ['unsafe_value', 'PUT', '/secrets/S', { value: text }],
    ['unsafe_value', 'POST', '/secrets', { name: text, value: 'v' }],
    ['unsafe_value', 'POST', '/flows', { name, [text]: 1 }],
    ['unsafe_value', 'POST', '/auth/login', { email: 'a@b.cd', password: text }],
    ['unsafe_value', 'POST', '/auth/refresh', { refresh_token: text }],
    ...unsafe(text),
    ...unsafe({ [text]: 1 })
  ]),
  ...[2 ** 53, -(2 ** 53), 2 ** 53 + 2, 1e21, 1e300, Number.MAX_VALUE].flatMap(unsafe),
  ...[5e-324, -9e-41].flatMap(unsafe),
  ...['9007199254740993', '1e400', '-1e400', '1e9999', '9'.repeat(400)].map((number): Bad => {
    return ['unsafe_value', 'PATCH', '/flows/f', `{"definition":[${number}]}`, json]
  })
]

const prototypes: Bad[] = [
  '{"name":"x","__proto__":{"status":"active"}}',
  '{"name":"x","__proto__":null}',
  '{"__proto__":{"name":"x"}}',
  '{"name":"x","definition":{"__proto__":{"polluted":true}}}',
  '{"name":"x","definition":[{"a":{"__proto__":1}}]}',
  '{"name":"x","definition":{"\\u005f_proto__":{"polluted":true}}}',
  '{"name":"x","constructor":{"prototype":{"polluted":true}}}',
  '{"name":"x","definition":{"constructor":{"prototype":{"polluted":true}}}}'
].flatMap((text): Bad[] => [
  ['unsafe_value', 'POST', '/flows', text, json],
  ['unsafe_value', 'PATCH', '/flows/f', text, json]
])

const nesting: Bad[] = [
  ['unsafe_value', 'PUT', '/flows/f', { name, definition: nested(32) }],
  ['unsafe_value', 'PUT', '/flows/f', { name, definition: nested(100) }],
  ['unsafe_value', 'POST', '/flows/f/executions', { input: nested(32) }],
  ['unsafe_value', 'POST', '/flows', bomb('[', ']', megabyte / 4), json],
  ['unsafe_value', 'POST', '/flows', bomb('{"a":', '}', megabyte / 8), json],
  ['unsafe_value', 'POST', '/auth/login', bomb('[', ']', megabyte / 4), json]
]

const texts: Bad[] = ['', ' ', '   ', '\t\n', '\u00a0', '\u3000', '\ufeff', '\u2028'].flatMap(
  (blank): Bad[] => [
    ['validation_failed', 'POST', '/flows', { name: blank }],
    ['validation_failed', 'PATCH', '/templates/t', { name: blank }],
    ['validation_failed', 'PATCH', '/connections/c', { provider: blank }],
    ['validation_failed', 'PATCH', '/connections/c', { status: blank }],
    ['validation_failed', 'PATCH', '/users/me', { name: blank }],
    ['validation_failed', 'PATCH', '/users/me', { email: blank, current_password }],
    [
      'validation_failed',
      'POST',
      '/auth/register',
      { tenant_name: blank, name, email: 'a@b.cd', password: 'long enough' }
    ]
  ]
)
texts.push(
  ['validation_failed', 'POST', '/flows', { name: 'x'.repeat(201) }],
  ['validation_failed', 'POST', '/flows', { name: '\u{1F600}'.repeat(201) }],
  ['validation_failed', 'PUT', '/secrets/S', { value: '' }],
  ['validation_failed', 'PUT', '/secrets/S', { value: 'x'.repeat(65_537) }],
  ['validation_failed', 'PATCH', '/users/me', { password: '1234567', current_password }],
  ['validation_failed', 'PATCH', '/users/me', { password: 'x'.repeat(257), current_password }],
  ['validation_failed', 'PATCH', '/users/me', { password: '', current_password }],
  ['validation_failed', 'PATCH', '/users/me', { email: 'nobody', current_password }],
  ['validation_failed', 'PATCH', '/users/me', { email: 'a@b', current_password }],
  ['validation_failed', 'PATCH', '/users/me', { email: 'ä@example.com', current_password }],
  [
    'validation_failed',
    'PATCH',
    '/users/me',
    { email: `${'a'.repeat(250)}@b.cd`, current_password }
  ],
  ['validation_failed', 'POST', '/flows', { name, status: 'Draft' }],
  ['validation_failed', 'POST', '/flows', { name, status: 'ACTIVE' }],
  ['validation_failed', 'POST', '/flows', { name, status: ' draft' }],
  ['validation_failed', 'POST', '/flows', { name, status: '' }],
  ['reference_not_found', 'POST', '/flows', { name, template_id: 'nope' }],
  ['reference_not_found', 'PATCH', '/flows/f', { template_id: 'T' }],
  ['invalid_refresh_token', 'POST', '/auth/refresh', { refresh_token: 'nope' }],
  ['invalid_credentials', 'POST', '/auth/login', { email: 'a@b.cd', password: 'x' }]
)

const llm: Bad[] = [
  ...[
    {},
    { prompt: '' },
    { prompt: ' ' },
    { prompt: ['x'] },
    { prompt: 'x', temperature: 2.1 },
    { prompt: 'x', temperature: '1' },
    { prompt: 'x', maxTokens: 0 },
    { prompt: 'x', maxTokens: 1.5 },
    { prompt: 'x', model: 'a model' },
    { prompt: 'x', system: '' },
    { prompt: 'x', max_tokens: 5 }
  ].flatMap((body): Bad[] => [
    ['validation_failed', 'POST', '/llm/complete', body],
    ['validation_failed', 'POST', '/llm/stream', body]
  ]),
  ['validation_failed', 'POST', '/llm/complete', { prompt: 'x', useCache: 'yes' }],
  ['validation_failed', 'POST', '/llm/stream', { prompt: 'x', useCache: true }],
  ['unsafe_value', 'POST', '/llm/stream', { prompt: 'a\0b' }],
  ...['', 'prompt=', 'prompt=x&temperature=0x1', 'prompt=x&maxTokens=1e3', 'prompt=x&prompt=y'].map(
    (query): Bad => ['validation_failed', 'GET', `/llm/stream?${query}`]
  ),
  ...[
    'since=2026-02-30',
    'since=2026-13-01',
    'until=2026-1-1',
    'since=now',
    'until=0000-00-00'
  ].map((query): Bad => ['validation_failed', 'GET', `/llm/usage?${query}`]),
  ['validation_failed', 'GET', '/llm/usage?since=2026-02-01&until=2026-01-01'],
  ['validation_failed', 'GET', '/llm/usage?since=2020-01-01&until=2026-01-01']
]

const sizes: Bad[] = [
  ['body_too_large', 'POST', '/flows', { name, definition: 'x'.repeat(megabyte) }],
  ['body_too_large', 'PUT', '/flows/f', `{"name":"x"}${' '.repeat(megabyte)}`, json],
  ['body_too_large', 'POST', '/auth/login', bomb('[', ']', megabyte), json],
  ['body_too_large', 'DELETE', '/flows/f', `{}${' '.repeat(megabyte)}`, json]
]

const ifMatch: Bad[] = [
  '',
  'garbage',
  '"garbage"',
  '""',
  '"',
  '"0"',
  '"-1"',
  '"1.0"',
  '"1e0"',
  '"99999999999999999999"',
  '"0", "garbage", W/"1"',
  'null',
  '**'
].flatMap((tag): Bad[] => {
  const headers = { 'if-match': tag }
  return [
    ['precondition_failed', 'PATCH', '/flows/f', { name }, headers],
    ['precondition_failed', 'PUT', '/flows/f', { name }, headers],
    ['precondition_failed', 'PUT', '/flows/absent', { name }, headers],
    ['precondition_failed', 'DELETE', '/flows/f', undefined, headers],
    ['precondition_failed', 'POST', '/flows/f/deploy', undefined, headers],
    ['precondition_failed', 'PATCH', '/users/me', { name }, headers],
    ['precondition_failed', 'PUT', '/secrets/S', { value: 'v' }, headers]
  ]
})
ifMatch.push(
  // Any version will do, but there has to be one (RFC 9110, 13.1.1).
  ['precondition_failed', 'PUT', '/flows/absent', { name }, { 'if-match': '*' }],
  ['not_found', 'PATCH', '/flows/absent', { name }, { 'if-match': '*' }]
)

const methods: Bad[] = [
  ...(['OPTIONS', 'TRACE', 'PURGE', 'PROPFIND', 'LINK', 'LOCK'] as Method[]).flatMap(
    (method): Bad[] => [
      ['route_not_found', method, '/flows'],
      ['route_not_found', method, '/flows/f']
    ]
  ),
  ['route_not_found', 'QUERY' as Method, '/flows'],
  ['route_not_found', 'PUT', '/flows', { name }],
  ['route_not_found', 'PATCH', '/flows', { name }],
  ['route_not_found', 'DELETE', '/flows'],
  ['route_not_found', 'POST', '/flows/f', { name }],
  ['route_not_found', 'PATCH', '/secrets', { value: 'v' }],
  ['route_not_found', 'POST', '/executions', {}],
  ['route_not_found', 'DELETE', '/audit'],
  ['route_not_found', 'POST', '/audit', {}],
  ['route_not_found', 'GET', ''],
  ['route_not_found', 'GET', '/nothing'],
  ['route_not_found', 'GET', '/FLOWS'],
  ['route_not_found', 'GET', '/tenants'],
  ['route_not_found', 'GET', '/sessions']
]

const tables = {
  'malformed JSON': malformedJson,
  'wrong types': wrongTypes,
  'unknown fields': unknownFields,
  queries,
  'times that no storage can hold': times,
  'wrong content types': contentTypes,
  ids,
  'values that cannot be stored': unsafeValues,
  'keys that would change a prototype': prototypes,
  'deep nesting': nesting,
  'texts that a field refuses': texts,
  'what no model is asked': llm,
  'large bodies': sizes,
  'If-Match that fits no version': ifMatch,
  'methods and addresses that do not exist': methods
}

for (const storage of testStorages) {
  t.test(`bad input on ${storage.kind}`, { skip: storage.skip }, (t) => badInput(t, storage))
  t.test(`extremes that are valid on ${storage.kind}`, { skip: storage.skip }, (t) =>
    validExtremes(t, storage)
  )
}

async function badInput(t: Test, on: TestStorage) {
  const { api, admin, tenant } = await stockedApi(t, on)
  const before = await snapshotOf(api.storage, tenant)
  const polluted = () => ({})

  for (const [title, rows] of Object.entries(tables))
    t.test(title, async (t) => {
      for (const [code, method, url, body, headers] of rows) {
        const answer = await admin.send(method, url, body, headers)
        const row = describeRow([code, method, url, body, headers])
        t.match(answer.headers['content-type'], /^application\/problem\+json\b/, row)
        const { status, title } = problems[code]
        const expected = { type: `urn:problem:${code}`, status, title, code }
        t.match({ statusCode: answer.statusCode, ...parsed(answer.body) }, expected, row)
      }
      // Not after each, which would be most of what is asked of the storage.
      t.strictSame(await snapshotOf(api.storage, tenant), before, 'none changes anything')
      t.strictSame(Object.keys(polluted()), [])
      t.equal((polluted() as { polluted?: true }).polluted, undefined)
    })

  t.test('what is wrong with a value is said in words', async (t) => {
    const time = 'is not a time between the years 1 and 9999, such as 2026-01-31T09:30:00Z'
    for (const [method, url, body, detail] of [
      ['GET', '/audit?since=2016-12-31T23:59:60Z', undefined, time],
      ['GET', '/flows?limit=1&limit=2', undefined, 'is given more than once'],
      ['GET', '/flows?status=draft&status=active', undefined, 'is given more than once'],
      ['GET', '/audit?since=0000-01-31T09:30:00Z', undefined, time],
      ['PUT', '/secrets/S', { value: 'v', expires_at: 'tomorrow' }, time],
      ['PUT', '/flows/f', { name: ' ' }, 'must not be blank'],
      [
        'PUT',
        '/flows/f',
        { name, definition: 2 ** 53 },
        'is an integer beyond 2^53 - 1: send it as a string'
      ],
      ['PATCH', '/flows/f', {}, 'must have at least 1 field'],
      ['POST', '/llm/complete', { prompt: 'p', useCache: 'no' }, 'must be true or false']
    ] as const) {
      const { errors } = (await admin.send(method, url, body)).json()
      t.equal(errors[0].detail, detail, `${method} ${url}`)
    }
    const { errors } = (await admin.send('GET', '/flows?limit=1&limit=2&order=up')).json()
    t.match(errors, [{ pointer: '/limit' }, { pointer: '/order' }], 'all of it')
  })

  t.test('cursors made by hand', async (t) => {
    const list = listDigest([flows.name, 'desc', [], undefined, undefined])
    const at = '2026-01-31T09:30:00.000Z'
    const right = encodeCursor(list, { at, key: 'f' })
    t.equal((await admin.send('GET', `/flows?cursor=${right}`)).statusCode, 200)
    for (const position of [
      { at: '2026-02-30T09:30:00.000Z', key: 'f' },
      { at: '2026-01-31T09:30:00Z', key: 'f' },
      { at: '0000-01-31T09:30:00.000Z', key: 'f' },
      { at: '+010000-01-31T09:30:00.000Z', key: 'f' },
      { at: '', key: 'f' },
      { at, key: '' },
      { at, key: 'a\0b' },
      { at, key: '\ud800' }
    ]) {
      const cursor = encodeCursor(list, position)
      const answer = await admin.send('GET', `/flows?cursor=${cursor}`)
      t.match(answer.json(), { status: 400, code: 'bad_cursor' }, JSON.stringify(position))
    }
    const foreign = await admin.send('GET', `/flows?order=asc&cursor=${right}`)
    t.equal(foreign.json().code, 'bad_cursor', 'of the list in the other order')
    const other = await admin.send('GET', `/templates?cursor=${right}`)
    t.equal(other.json().code, 'bad_cursor', 'of another list')
  })

  t.test('If-Match takes an ETag as it was given and in no other form', async (t) => {
    const { version } = (await admin.send('GET', '/flows/f')).json()
    for (const tag of [
      `W/"${version}"`,
      `"0${version}"`,
      `${version}`,
      `"${version}`,
      `'${version}'`
    ])
      for (const method of ['PATCH', 'PUT'] as const) {
        const answer = await admin.send(method, '/flows/f', { name }, { 'if-match': tag })
        t.match(answer.json(), { code: 'precondition_failed', detail: /with its quotes/ }, tag)
        const absent = await admin.send(method, '/flows/absent', { name }, { 'if-match': tag })
        const code = method === 'PUT' ? 'precondition_failed' : 'not_found'
        t.match(absent.json(), { code, detail: /There is no/ }, tag)
      }
    for (const tag of [`"${version}"`, `"0", "${version}"`, `"x","${version}"`, '*', ' * ']) {
      const headers = { 'if-match': tag }
      const answer = await admin.send('PATCH', '/flows/f', { name: 'F' }, headers)
      t.equal(answer.statusCode, 200, tag)
    }
    t.strictSame(await snapshotOf(api.storage, tenant), before)
  })

  t.test('HEAD answers as GET does, without the body', async (t) => {
    for (const url of ['/flows', '/flows?limit=1', '/flows/f', '/health', '/executions']) {
      const [head, get] = [await admin.send('HEAD', url), await admin.send('GET', url)]
      t.equal(head.statusCode, 200, url)
      t.equal(head.body, '', url)
      for (const header of ['etag', 'link', 'content-type', 'content-length'])
        t.equal(head.headers[header], get.headers[header], `${header} of ${url}`)
    }
    for (const [status, url] of [
      [400, '/flows?limit=0'],
      [400, '/flows?nope=1'],
      [400, '/flows/%zz'],
      [404, '/flows/nope'],
      [404, '/nothing']
    ] as const) {
      const head = await admin.send('HEAD', url)
      t.equal(head.statusCode, status, url)
      t.match(head.headers['content-type'], /^application\/problem\+json\b/, url)
      t.equal(head.body, '', url)
    }
    t.equal((await api.send('HEAD', '/flows')).statusCode, 401)
  })
}

async function validExtremes(t: Test, on: TestStorage) {
  const { admin } = await stockedApi(t, on)

  t.test('a UUID in capitals is the same one', async (t) => {
    const { id } = (await admin.send('POST', '/flows/f/executions', {})).json()
    for (const url of [`/executions/${id}`, `/users/${admin.id}`]) {
      const capitals = url.replace(/[^/]+$/, (uuid) => uuid.toUpperCase())
      t.strictSame(
        (await admin.send('GET', capitals)).json(),
        (await admin.send('GET', url)).json()
      )
    }
    const running = { status: 'running' }
    const moved = await admin.send('PATCH', `/executions/${id.toUpperCase()}`, running)
    t.match(moved.json(), { id, ...running })
  })

  t.test('ids of 128 characters, and ids that look like other routes', async (t) => {
    for (const id of [longest, 'me', 'executions', 'deploy', 'a..b', '0', 'con', 'null', 'A-._']) {
      t.equal((await admin.send('PUT', `/flows/${id}`, { name })).statusCode, 201, id)
      t.equal((await admin.send('GET', `/flows/${id}`)).json().id, id)
      t.equal((await admin.send('POST', `/flows/${id}/executions`, {})).statusCode, 201, id)
      t.equal((await admin.send('DELETE', `/flows/${id}`)).statusCode, 204, id)
    }
  })

  t.test('names of secrets in many scripts', async (t) => {
    for (const secret of [
      'Größe',
      '東京',
      'Ελλάδα',
      'Привет',
      'שלום',
      'مرحبا',
      'नमस्ते',
      'ไทย',
      '한국어',
      'e\u0301',
      '\u{1F600}',
      '\u{20000}'.repeat(128),
      '%00',
      '%2F',
      '!"#$%&\'()*+,-.:;<=>?@[]^_`{|}~',
      '...',
      '.env',
      'me'
    ]) {
      const path = `/secrets/${encodeURIComponent(secret)}`
      const created = await admin.send('POST', '/secrets', { name: secret, value: secret })
      t.match(created.json(), { name: secret, expired: false }, secret)
      t.equal(created.headers.location, `/api${path}`)
      t.equal((await admin.send('GET', path)).json().name, secret)
      t.equal((await admin.send('PUT', path, { value: 'v' })).statusCode, 200)
      t.equal((await admin.send('DELETE', path)).statusCode, 204)
    }
  })

  t.test('large and deep definitions', async (t) => {
    for (const definition of [
      'x'.repeat(megabyte - 1000),
      '\u{1F600}'.repeat(megabyte / 4 - 250),
      Object.fromEntries(Array.from({ length: 50_000 }, (_, n) => [`key${n}`, n])),
      Array(400_000).fill(0),
      nested(31),
      { constructor: 1, prototype: { a: 1 }, toString: null, hasOwnProperty: 1, toJSON: 'x' },
      [2 ** 53 - 1, -(2 ** 53 - 1), 0.1, 1e-40, 1e-7, -1.5],
      { '': '', ' ': ' ', '~0/~1': [[[]]], '\u0001': '\u001f\u007f\u2028\uffff\ufdd0' }
    ]) {
      const row = JSON.stringify(definition).slice(0, 40)
      const stored = await admin.send('PUT', '/flows/big', { name, definition })
      t.ok([200, 201].includes(stored.statusCode), row)
      const read = await admin.send('GET', '/flows/big')
      t.ok(sameJson(read.json().definition, definition), row)
    }
  })

  t.test('times in every form of RFC 3339', async (t) => {
    for (const [given, kept] of [
      ['2024-02-29T23:59:59Z', '2024-02-29T23:59:59.000Z'],
      ['2026-01-01T00:00:00.123456789+05:30', '2025-12-31T18:30:00.123Z'],
      ['2026-01-01t00:00:00z', '2026-01-01T00:00:00.000Z'],
      ['2026-01-01T00:00:00-00:00', '2026-01-01T00:00:00.000Z'],
      ['0001-01-01T00:00:00Z', '0001-01-01T00:00:00.000Z'],
      ['0099-06-01T00:00:00.5+01:00', '0099-05-31T23:00:00.500Z'],
      ['9999-12-31T23:59:59.999Z', '9999-12-31T23:59:59.999Z']
    ] as const) {
      const answer = await admin.send('PUT', '/secrets/S', { value: 'v', expires_at: given })
      t.equal(answer.json().expires_at, kept, given)
      const since = encodeURIComponent(given)
      t.equal((await admin.send('GET', `/audit?since=${since}`)).statusCode, 200, given)
    }
  })

  t.test('texts at their longest', async (t) => {
    for (const longName of ['x'.repeat(200), '\u{1F600}'.repeat(200), '0', ' x '])
      t.equal((await admin.send('PATCH', '/flows/f', { name: longName })).json().name, longName)
    const value = '\u{1F600}'.repeat(65_536)
    t.equal((await admin.send('PUT', '/secrets/S', { value })).statusCode, 200)
    const { mostPasswordBytes } = on.signIn
    const length = mostPasswordBytes ? mostPasswordBytes / 4 : 256
    const password = `${'\u{1F600}'.repeat(length - 1)}\u{1F601}`
    const current_password = admin.password
    const change = { password, current_password }
    t.equal((await admin.send('PATCH', '/users/me', change)).statusCode, 200)
    if (mostPasswordBytes) {
      const refused = await admin.send('PATCH', '/users/me', {
        password: `${password}x`,
        current_password: password
      })
      t.match([refused.statusCode, refused.json().code], [422, 'password_refused'])
    }
    const credentials = { email: admin.email, password }
    t.equal((await admin.send('POST', '/auth/login', credentials)).statusCode, 200)
  })

  t.test('JSON by any of its names', async (t) => {
    for (const type of [
      'application/json',
      'Application/JSON',
      'application/json;charset=utf-8',
      'application/json; charset="UTF-8"',
      'application/json; odd=1'
    ]) {
      const headers = { 'content-type': type }
      const answer = await admin.send('PATCH', '/flows/f', '\ufeff{"name":"Größe"}', headers)
      t.equal(answer.json().name, 'Größe', type)
    }
  })

  t.test('what is not compressed says so, and what is compressed is told', async (t) => {
    for (const encoding of ['identity', 'Identity', '']) {
      const headers = { ...json, 'content-encoding': encoding }
      const answer = await admin.send('PATCH', '/flows/f', { name: 'F' }, headers)
      t.equal(answer.statusCode, 200, encoding)
    }
    const headers = { ...json, 'content-encoding': 'gzip' }
    const answer = await admin.send('POST', '/flows', gzipSync('{"name":"x"}'), headers)
    t.match(answer.json(), { code: 'unsupported_media_type', detail: /uncompressed/ })
    t.equal(answer.headers['accept-encoding'], 'identity')
  })

  t.test('no body where none is needed, whatever Content-Type says', async (t) => {
    for (const body of ['', '{}', ' {} '])
      t.equal((await admin.send('POST', '/flows/f/deploy', body, json)).statusCode, 200, body)
    t.equal((await admin.send('DELETE', '/connections/c', '', json)).statusCode, 204)
    const form = { 'content-type': 'application/x-www-form-urlencoded' }
    for (const headers of [form, { ...form, 'content-length': '0' }])
      for (const url of ['/flows/f/deploy', '/flows/f/executions', '/templates/t/flows'])
        t.match(await admin.send('POST', url, '', headers), { statusCode: /^20[01]$/ }, url)
    const headers = { ...form, 'transfer-encoding': 'chunked' }
    const chunked = await admin.send('POST', '/flows/f/deploy', '', headers)
    t.equal(chunked.json().code, 'unsupported_media_type')
    const needed = await admin.send('POST', '/flows', '', form)
    t.equal(needed.json().code, 'unsupported_media_type')
  })

  t.test('no body where all of it may be left out', async (t) => {
    const { id } = (await admin.send('POST', '/api-keys', { name: 'K' })).json()
    for (const [url, status] of [
      ['/flows/f/executions', 201],
      ['/templates/t/flows', 201],
      [`/api-keys/${id}/rotate`, 200]
    ] as const) {
      t.equal((await admin.send('POST', url)).statusCode, status, url)
      t.equal((await admin.send('POST', url, '', json)).statusCode, status, url)
      t.equal((await admin.send('POST', url, 'null', json)).statusCode, 400, url)
    }
    const key = { 'idempotency-key': 'none' }
    const first = await admin.send('POST', '/flows/f/executions', undefined, key)
    const repeat = await admin.send('POST', '/flows/f/executions', {}, key)
    t.strictSame(repeat.json(), first.json())
  })

  t.test('lists at their longest', async (t) => {
    t.equal((await admin.send('GET', '/flows?limit=250')).statusCode, 200)
    t.equal((await admin.send('GET', '/flows?limit=1&')).statusCode, 200)
  })
}

t.test('each fault of a field is told once', async (t) => {
  const admin = await (await testApi(t)).register()
  for (const [url, body, detail] of [
    ['/flows/f', { name, template_id: 5 }, 'must be string'],
    ['/flows/f', { name, template_id: ' ' }, 'may have only A-Z'],
    ['/flows/f', { name, template_id: 'x'.repeat(129) }, 'must NOT have more than 128'],
    ['/secrets/S', { value: 'v', expires_at: 'soon' }, 'is not a time']
  ] as const) {
    const { errors } = (await admin.send('PUT', url, body)).json()
    t.match(errors, [{ detail: new RegExp(`^${detail}`) }])
    t.equal(errors.length, 1)
  }
})

t.test('the body limit follows the configuration', async (t) => {
  const api = await testApi(t, { env: { BODY_LIMIT: '2048' } })
  const admin = await api.register()
  const fits = {
    name,
    definition: 'x'.repeat(2048 - JSON.stringify({ name, definition: '' }).length)
  }
  t.equal((await admin.send('POST', '/flows', fits)).statusCode, 201)
  const answer = await admin.send('POST', '/flows', { ...fits, definition: `${fits.definition}x` })
  const detail = 'A body may have 2048 bytes at most.'
  t.match(answer.json(), { status: 413, code: 'body_too_large', detail })
})

t.test('what is no HTTP gets a problem too', async (t) => {
  const { app } = await testApi(t)
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  for (const request of [
    'BREW /api/health HTTP/1.1\r\nHost: x\r\n\r\n',
    'get /api/health HTTP/1.1\r\nHost: x\r\n\r\n',
    'GET /api/health HTTP/9.9\r\n\r\n',
    'GET /api/health HTTP/1.1\r\nHost : x\r\n\r\n',
    'GET /api/health HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n',
    'POST /api/flows HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n',
    'POST /api/flows HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n',
    '\0\0\0\0\r\n\r\n'
  ]) {
    const [answer] = await exchangeRaw(port, request)
    const row = JSON.stringify(cut(request))
    t.match(answer?.headers, { 'content-type': 'application/problem+json' }, row)
    const id = String(answer?.headers['x-request-id'])
    t.match(id, /^[0-9a-f-]{36}$/, row)
    t.match(answer?.json(), { status: 400, code: 'bad_request', request_id: id }, row)
  }
  const long = `GET /api/health HTTP/1.1\r\nHost: x\r\nX: ${'a'.repeat(20_000)}\r\n\r\n`
  const [tooLong] = await exchangeRaw(port, long)
  t.match(tooLong?.json(), { status: 431, code: 'headers_too_large' })
  const known = await exchangeRaw(
    port,
    'GET /api/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'
  )
  t.match(known, [{ statusCode: 200 }])
  const hostless = await exchangeRaw(port, 'GET /api/health HTTP/1.1\r\nConnection: close\r\n\r\n')
  t.match(hostless[0]?.json(), { status: 400, code: 'bad_request' })
  const expecting =
    'GET /api/health HTTP/1.1\r\nHost: x\r\nExpect: tea\r\nConnection: close\r\n\r\n'
  const unexpected = await exchangeRaw(port, expecting)
  t.match(unexpected, [{ statusCode: 200 }], 'an expectation may be ignored')
})

/** An API with one row of each kind to be spoilt. */
async function stockedApi(t: Teardown, on: TestStorage) {
  const api: TestApi = await testApi(t, { on })
  const admin: Person = await api.register()
  const { send } = admin
  await send('PUT', '/templates/t', { name: 'T', definition: { steps: [] } })
  await send('PUT', '/flows/f', { name: 'F', definition: { steps: [1] }, template_id: 't' })
  await send('POST', '/flows/f/executions', { input: { n: 1 } })
  await send('PUT', '/connections/c', { provider: 'p', category: 'q', account: 'a' })
  await send('PUT', '/secrets/S', { value: 'secret' })
  await api.person(admin, 'viewer')
  const row = await api.storage.get({ resource: users, tenant: ACROSS_TENANTS }, admin.id)
  return { api, admin, tenant: row?.tenant_id as TenantId }
}

/** A value of this many levels, lists and objects by turns. */
function nested(levels: number): unknown {
  return levels === 0 ? 'core' : levels % 2 ? [nested(levels - 1)] : { in: nested(levels - 1) }
}

function bomb(open: string, close: string, depth: number): string {
  return `${open.repeat(depth)}1${close.repeat(depth)}`
}

/** Without the cost of a deep comparison of large values; the order of keys is free. */
function sameJson(a: unknown, b: unknown): boolean {
  return sortedText(a) === sortedText(b)
}

function sortedText(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) =>
    typeof inner === 'object' && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner
  )
}

function parsed(body: string): Record<string, unknown> {
  try {
    return JSON.parse(body)
  } catch {
    return { body }
  }
}

function describeRow([code, method, url, body, headers]: Bad): string {
  const sent = typeof body === 'string' ? JSON.stringify(body) : (JSON.stringify(body) ?? '')
  const parts = [method, cut(url), cut(sent), headers ? JSON.stringify(headers) : '']
  return ascii(`${parts.filter(Boolean).join(' ')} is ${code}`)
}

/** TAP is read by lines, and some of these characters end one. */
function ascii(text: string): string {
  return text.replace(/[^ -~]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

function cut(text: string): string {
  return text.length > 80 ? `${text.slice(0, 60)}… (${text.length})` : text
}

t.test('the body of what is no route is not waited for', async (t) => {
  const { app } = await testApi(t)
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  const head =
    'POST /api/nowhere HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\nConnection: close\r\n\r\n'
  const [answer] = await exchangeRaw(port, `${head}{"a":`, { halfClose: false })
  t.match(answer?.json(), { status: 404, code: 'route_not_found' })
})
