import { createHmac, generateKeyPairSync, type KeyObject, randomUUID, sign } from 'node:crypto'
import { once } from 'node:events'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import type { JWTPayload } from 'jose'
import t, { type Test } from 'tap'
import { openLocalIdentity } from '../../../adapters/identity/local.js'
import type { Identity } from '../../../adapters/identity/port.js'
import { openSupabaseIdentity } from '../../../adapters/identity/supabase.js'
import { newApiKeyText } from '../../../src/api-key-text.js'
import { cheapHasher, type TestApi, testApi } from '../../support/api.js'
import { memory } from '../../support/storages.js'

const seconds = () => Math.floor(Date.now() / 1000)
const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')

function hmac(header: object, payload: object, key: string, hash = 'sha256'): string {
  const signed = `${encode(header)}.${encode(payload)}`
  return `${signed}.${createHmac(hash, key).update(signed).digest('base64url')}`
}

/** A way to sign in as the server's own tokens do, of which one thing is changed at a time. */
interface Stage {
  readonly api: TestApi
  /** What a good token says. */
  readonly claims: JWTPayload
  /** Signs as the server does, or its project. */
  token(claims: object, header?: object): string
  /** Tokens that only this kind of sign-in has. */
  readonly more: Readonly<Record<string, string>>
}

const secret = 'the secret that signs the tokens of this test'

async function localStage(t: Test): Promise<Stage> {
  const storage = await memory.open(t)
  const identity = await openLocalIdentity({ storage, secret, hasher: cheapHasher })
  const api = await testApi(t, { storage, identity })
  const admin = await api.register()
  const { iat: _, ...claims } = claimsOf(admin.token)
  const header = { alg: 'HS256', typ: 'JWT' }
  const refresh = claimsOf(admin.refreshToken)
  return {
    api,
    claims,
    token: (payload, changed) => hmac({ ...header, ...changed }, payload, secret),
    more: {
      'a refresh token': admin.refreshToken,
      'the claims of a refresh token': hmac(header, refresh, secret),
      'signed by another secret': hmac(header, claims, `${secret}!`),
      'signed by nothing': hmac(header, claims, ''),
      'another hash': hmac({ ...header, alg: 'HS512' }, claims, secret, 'sha512'),
      'a token of Supabase': hmac(
        header,
        { ...claims, iss: 'http://127.0.0.1/auth/v1', aud: 'authenticated' },
        secret
      )
    }
  }
}

/** Supabase Auth as far as tokens go: it publishes one key, and knows none of the tokens. */
async function startProject(t: Test, jwk: object) {
  let asked = 0
  const server = http.createServer(({ url = '' }, response) => {
    response.setHeader('content-type', 'application/json')
    if (url.endsWith('/jwks.json')) return response.end(JSON.stringify({ keys: [jwk] }))
    asked++
    response.writeHead(403)
    response.end('{"code":403,"error_code":"bad_jwt","msg":"invalid JWT"}')
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return { url, asked: () => asked }
}

async function supabaseStage(t: Test): Promise<Stage> {
  const curve = { namedCurve: 'P-256' }
  const [key, foreign] = [generateKeyPairSync('ec', curve), generateKeyPairSync('ec', curve)]
  const kid = randomUUID()
  const jwk = { ...key.publicKey.export({ format: 'jwk' }), kid, alg: 'ES256', use: 'sig' }
  const { url } = await startProject(t, jwk)
  const storage = await memory.open(t)
  // Rows are made by the local sign-in: what is tested is whose token it is.
  const local = await openLocalIdentity({ storage, secret, hasher: cheapHasher })
  const admin = await (await testApi(t, { storage, identity: local })).register()
  const supabase = await openSupabaseIdentity({
    url,
    key: 'sb_secret_x',
    storage,
    jwtSecret: secret
  })
  const api = await testApi(t, { storage, identity: supabase as Identity })
  const claims = {
    iss: `${url}/auth/v1`,
    aud: 'authenticated',
    sub: admin.id,
    exp: seconds() + 3600,
    role: 'authenticated',
    session_id: randomUUID()
  }
  const signBy = (privateKey: KeyObject, payload: object, header: object = {}) => {
    const signed = `${encode({ alg: 'ES256', kid, typ: 'JWT', ...header })}.${encode(payload)}`
    const given = { key: privateKey, dsaEncoding: 'ieee-p1363' } as const
    return `${signed}.${sign('sha256', Buffer.from(signed), given).toString('base64url')}`
  }
  return {
    api,
    claims,
    token: (payload, header) => signBy(key.privateKey, payload, header),
    more: {
      'signed by another key of this name': signBy(foreign.privateKey, claims),
      'signed by a key that is not published': signBy(foreign.privateKey, claims, {
        kid: 'unknown'
      }),
      'the public key as a secret': hmac({ alg: 'HS256', kid }, claims, JSON.stringify(jwk)),
      'the secret of another project': hmac({ alg: 'HS256' }, claims, `${secret}!`),
      'the key of a role': hmac({ alg: 'HS256' }, { ...claims, iss: 'supabase' }, secret),
      'a token of the local sign-in': admin.token,
      'a refresh token': 'v1.MRjcyOnQ9bSFrxJg3Nq2'
    }
  }
}

function claimsOf(token: string): JWTPayload {
  return JSON.parse(Buffer.from(token.split('.')[1] as string, 'base64url').toString())
}

/** What is wrong with a token, whoever makes it. */
function forgeries({ claims, token, more }: Stage): Record<string, string> {
  const good = token(claims)
  const [header = '', payload = '', signature = ''] = good.split('.')
  const parsed = JSON.parse(Buffer.from(header, 'base64url').toString())
  const { exp: _, ...endless } = claims
  const { sub: __, ...nobody } = claims
  const pem = generateKeyPairSync('rsa', { modulusLength: 2048 }).publicKey
  const flipped = `${signature[0] === 'A' ? 'B' : 'A'}${signature.slice(1)}`
  const without = (alg: string) => encode({ ...parsed, alg })
  return {
    ...more,
    'alg none': `${without('none')}.${payload}.`,
    'alg None': `${without('None')}.${payload}.`,
    'alg NONE with a signature': `${without('NONE')}.${payload}.${signature}`,
    'alg empty': `${without('')}.${payload}.`,
    'no alg': `${encode({ typ: 'JWT' })}.${payload}.${signature}`,
    'alg of another family': `${without('RS256')}.${payload}.${signature}`,
    'a key of its own': `${encode({ ...parsed, jwk: pem.export({ format: 'jwk' }) })}.${payload}.${signature}`,
    'a key at an address of its own': `${encode({ ...parsed, jku: 'http://127.0.0.1:9/' })}.${payload}.${signature}`,
    'a path as key id': `${encode({ ...parsed, kid: '../../../dev/null' })}.${payload}.${signature}`,
    'SQL as key id': `${encode({ ...parsed, kid: "x' union select 'key" })}.${payload}.${signature}`,
    'no signature': `${header}.${payload}.`,
    'no last part': `${header}.${payload}`,
    'another signature': `${header}.${payload}.${flipped}`,
    'a fourth part': `${good}.x`,
    'another payload': `${header}.${encode({ ...claims, sub: randomUUID() })}.${signature}`,
    'a payload that is no object': `${header}.${encode('x')}.${signature}`,
    'another issuer': token({ ...claims, iss: 'https://other.example/auth/v1' }),
    'no issuer': token({ ...claims, iss: undefined }),
    'another audience': token({ ...claims, aud: 'anon' }),
    'no audience': token({ ...claims, aud: undefined }),
    expired: token({ ...claims, exp: seconds() - 1 }),
    'expired for ever': token({ ...claims, exp: 0 }),
    'an end that is text': `${header}.${encode({ ...claims, exp: '9999999999' })}.${signature}`,
    'not yet valid': token({ ...claims, nbf: seconds() + 3600 }),
    'without an end': token(endless),
    'without a user': token(nobody),
    'a user that does not exist': token({ ...claims, sub: randomUUID() }),
    'a user that is no id': token({ ...claims, sub: "' or true --" }),
    'a user that is an operator': token({ ...claims, sub: 'neq.x' }),
    'a claim that must be understood': token(claims, { crit: ['x'], x: 1 }),
    'an API key that nobody made': newApiKeyText(),
    'an API key with a wrong checksum': `wfa_${'a'.repeat(38)}`,
    'a very long token': `${header}.${'a'.repeat(10_000)}.${signature}`,
    'dots alone': '.'.repeat(5000),
    nothing: 'null'
  }
}

for (const [kind, stageOf] of Object.entries({ local: localStage, supabase: supabaseStage }))
  t.test(`tokens that are not good for ${kind} sign-in`, async (t) => {
    const stage = await stageOf(t)
    const { api, claims, token } = stage
    const good = token(claims)
    t.equal((await api.as(good)('GET', '/users/me')).statusCode, 200, 'the good one is')
    const bad = forgeries(stage)
    for (const [what, each] of Object.entries(bad)) {
      const answer = await api.as(each)('GET', '/users/me')
      t.match([answer.statusCode, answer.json().code], [401, 'unauthenticated'], what)
    }
    t.equal(
      (await api.as(token({ ...claims, nbf: seconds() }))('GET', '/users/me')).statusCode,
      200
    )
    t.comment(`${Object.keys(bad).length} tokens`)
  })

t.test('a token says nothing about role and tenant', async (t) => {
  const storage = await memory.open(t)
  const identity = await openLocalIdentity({ storage, secret, hasher: cheapHasher })
  const api = await testApi(t, { storage, identity })
  const [admin, stranger] = [await api.register(), await api.register()]
  const viewer = await api.person(admin, 'viewer')
  const claims = { ...claimsOf(viewer.token), role: 'admin', tid: claimsOf(stranger.token).tid }
  const send = api.as(hmac({ alg: 'HS256', typ: 'JWT' }, claims, secret))
  t.match((await send('GET', '/users/me')).json(), { id: viewer.id, role: 'viewer' })
  t.equal((await send('GET', '/users')).statusCode, 403)
})
