import { once } from 'node:events'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { exportJWK, generateKeyPair, type JWTPayload, SignJWT } from 'jose'
import t, { type Test } from 'tap'
import { createTokenVerifier, type TokenVerifier } from '../../adapters/identity/supabase-tokens.js'
import { passTime } from '../support/pass-time.js'

const issuer = 'https://project.example/auth/v1'
const legacySecret = 'the legacy secret of the project, long enough'
const user = '019b76da-a800-7000-8000-0000000000aa'

type KeyPair = Awaited<ReturnType<typeof makeKey>>

async function makeKey(kid: string, alg: 'ES256' | 'RS256' = 'ES256') {
  const pair = await generateKeyPair(alg)
  return { ...pair, kid, alg, jwk: { ...(await exportJWK(pair.publicKey)), kid, alg, use: 'sig' } }
}

const seconds = () => Math.floor(Date.now() / 1000)

function claims(changed: JWTPayload = {}): JWTPayload {
  return { iss: issuer, aud: 'authenticated', sub: user, exp: seconds() + 3600, ...changed }
}

function sign({ privateKey, kid, alg }: KeyPair, payload = claims()): Promise<string> {
  return new SignJWT(payload).setProtectedHeader({ alg, kid, typ: 'JWT' }).sign(privateKey)
}

function signLegacy(secret: string, payload = claims()): Promise<string> {
  return new SignJWT(payload)
    .setProtectedHeader({ alg: 'HS256', typ: 'JWT' })
    .sign(new TextEncoder().encode(secret))
}

interface Stage {
  readonly verify: TokenVerifier
  /** What the server publishes; null where it is down. */
  keys: KeyPair[] | null
  /** How often it was asked for them. */
  readonly fetches: () => number
  /** Tokens that the Auth server was asked about. */
  readonly asked: string[]
  /** What it answers. */
  answer: (token: string) => string | null
}

/** A verifier, and the two things that it asks. */
async function setStage(t: Test, keys: KeyPair[], jwtSecret?: string): Promise<Stage> {
  let fetches = 0
  const asked: string[] = []
  const server = http.createServer((_request, response) => {
    fetches++
    if (!stage.keys) return response.writeHead(503).end()
    response.end(JSON.stringify({ keys: stage.keys.map(({ jwk }) => jwk) }))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })
  const stage: Stage = {
    keys,
    fetches: () => fetches,
    asked,
    answer: () => null,
    verify: createTokenVerifier({
      keysUrl: `http://127.0.0.1:${(server.address() as AddressInfo).port}/jwks.json`,
      headers: {},
      issuer,
      jwtSecret,
      timeoutMs: 5000,
      askServer: async (token) => {
        asked.push(token)
        return stage.answer(token)
      }
    })
  }
  return stage
}

const minutes = 60_000

for (const alg of ['ES256', 'RS256'] as const)
  t.test(`a token signed with a published key, ${alg}`, async (t) => {
    const key = await makeKey('one', alg)
    const stage = await setStage(t, [await makeKey('standby'), key])
    const token = await sign(key)
    t.equal(await stage.verify(token), user)
    t.equal(await stage.verify(token), user)
    t.equal(await stage.verify(await sign(key, claims({ jti: 'another' }))), user)
    t.equal(stage.fetches(), 1, 'the keys are fetched once')
    t.strictSame(stage.asked, [], 'and nobody is asked')
  })

t.test('keys rotate: an unknown one has them fetched, but not for every token', async (t) => {
  const [old, young] = [await makeKey('old'), await makeKey('young')]
  const stage = await setStage(t, [old])
  t.equal(await stage.verify(await sign(old)), user)

  stage.keys = [old, young]
  stage.answer = () => user
  const early = await sign(young)
  t.equal(await stage.verify(early), user, 'too early for a fetch: the Auth server says so')
  t.strictSame(stage.asked, [early])
  for (let i = 0; i < 20; i++) {
    stage.answer = () => null
    t.equal(await stage.verify(await sign(young, claims({ jti: `made up ${i}` }))), null)
  }
  t.equal(stage.fetches(), 1)

  passTime(t, minutes)
  const late = await sign(young, claims({ jti: 'late' }))
  t.equal(await stage.verify(late), user)
  t.equal(stage.fetches(), 2)
  t.equal(await stage.verify(await sign(old, claims({ jti: 'old' }))), user, 'the old one stays')
})

t.test('tokens with made-up keys are asked about now and then only', async (t) => {
  const [old, young] = [await makeKey('old'), await makeKey('young')]
  const stage = await setStage(t, [old])
  let tokens = 0
  const madeUp = () => sign({ ...old, kid: `made up ${++tokens}` })
  const another = (key: KeyPair) => sign(key, claims({ jti: `${++tokens}` }))
  t.equal(await stage.verify(await sign(old)), user)
  const unavailable = { code: 'unavailable' }
  for (let i = 0; i < 20; i++) t.equal(await stage.verify(await madeUp()), null)
  for (let i = 0; i < 30; i++) await t.rejects(stage.verify(await madeUp()), unavailable)
  t.equal(stage.asked.length, 20)
  t.equal(await stage.verify(await another(old)), user, 'a good one is let in')
  await t.rejects(stage.verify(await another(young)), unavailable, 'or told to try again')

  passTime(t, minutes)
  stage.keys = [old, young]
  t.equal(await stage.verify(await another(young)), user, 'also of a new key')
  t.equal(stage.asked.length, 20)
  for (let i = 0; i < 50; i++) await stage.verify(await madeUp()).catch(() => {})
  t.equal(stage.asked.length, 40)
})

t.test(
  'tokens that name no key, or what has to be understood, are no way around that',
  async (t) => {
    const [one, other] = [await makeKey('one'), await makeKey('other')]
    const stage = await setStage(t, [one, other])
    let tokens = 0
    const unnamed = () =>
      new SignJWT(claims({ jti: `${++tokens}` }))
        .setProtectedHeader({ alg: 'ES256' })
        .sign(other.privateKey)
    stage.answer = () => user
    t.equal(await stage.verify(await unnamed()), user, 'a good one is asked about')
    for (let i = 0; i < 50; i++) await stage.verify(await unnamed()).catch(() => {})
    t.equal(stage.asked.length, 20)

    const [, payload, signature] = (await sign(one)).split('.')
    for (let i = 0; i < 30; i++) {
      const header = { alg: 'ES256', kid: 'one', crit: ['x'], x: i }
      const encoded = Buffer.from(JSON.stringify(header)).toString('base64url')
      t.equal(await stage.verify([encoded, payload, signature].join('.')), null)
    }
    t.equal(stage.asked.length, 20)
  }
)

t.test('where no keys can be had, every token is asked about', async (t) => {
  const key = await makeKey('key')
  const stage = await setStage(t, [key])
  stage.keys = null
  stage.answer = () => user
  const tokens = await Promise.all(
    Array.from({ length: 50 }, (_, i) => sign(key, claims({ jti: `${i}` })))
  )
  const users = await Promise.all(tokens.map(stage.verify))
  t.strictSame(new Set(users), new Set([user]))
})

t.test('of a new key that the Auth server accepts, every token is asked about', async (t) => {
  const [old, young] = [await makeKey('old'), await makeKey('young')]
  const stage = await setStage(t, [old])
  let tokens = 0
  const another = () => sign(young, claims({ jti: `${++tokens}` }))
  const good = new Set<string>()
  stage.answer = (token) => (good.has(token) ? user : null)
  const verifyGood = async () => {
    const token = await another()
    good.add(token)
    return stage.verify(token)
  }
  t.equal(await verifyGood(), user)
  for (let i = 0; i < 50; i++)
    await stage.verify(await sign({ ...old, kid: `made up ${i}` })).catch(() => {})
  for (let i = 0; i < 30; i++) t.equal(await verifyGood(), user)
  t.equal(stage.fetches(), 1, 'although it is not published here yet')
})

t.test('a key that is withdrawn goes, and a server that is down takes none away', async (t) => {
  const [leaked, good] = [await makeKey('leaked'), await makeKey('good')]
  const stage = await setStage(t, [leaked, good])
  const bad = await sign(leaked, claims({ exp: seconds() + 24 * 3600 }))
  t.equal(await stage.verify(bad), user)

  stage.keys = null
  passTime(t, 11 * minutes)
  t.equal(await stage.verify(await sign(good)), user, 'the keys of before')
  await until(() => stage.fetches() >= 2)

  stage.keys = [good]
  let tries = 0
  const another = (key: KeyPair) => sign(key, claims({ jti: `${++tries}` }))
  await until(async () => {
    // Again and again: the refusal of before may still be on its way, and stand for this fetch.
    passTime(t, 11 * minutes)
    t.equal(await stage.verify(await another(good)), user)
    return (await stage.verify(await another(leaked))) === null
  })
  passTime(t, 6 * minutes)
  t.equal(await stage.verify(bad), null, 'nor is what was accepted before accepted for long')
})

t.test('while no keys can be had, the Auth server is asked', async (t) => {
  const key = await makeKey('one')
  const stage = await setStage(t, [])
  stage.keys = null
  stage.answer = () => user
  t.equal(await stage.verify(await sign(key)), user)
  stage.answer = () => {
    throw new Error('down')
  }
  const other = await sign(key, claims({ jti: 'other' }))
  await t.rejects(stage.verify(other), { message: 'down' }, 'that it cannot tell is no refusal')
  stage.answer = () => user
  t.equal(await stage.verify(other), user, 'and is not remembered as one')
})

t.test('the legacy secret', async (t) => {
  const stage = await setStage(t, [], legacySecret)
  t.equal(await stage.verify(await signLegacy(legacySecret)), user)
  t.equal(await stage.verify(await signLegacy('the secret of somebody else, just as long')), null)
  t.strictSame([stage.fetches(), stage.asked], [0, []])
})

t.test('without the legacy secret the Auth server is asked, once in a while', async (t) => {
  const stage = await setStage(t, [])
  stage.answer = () => user
  const token = await signLegacy(legacySecret)
  const verdicts = await Promise.all([1, 2, 3].map(() => stage.verify(token)))
  t.strictSame(verdicts, [user, user, user])
  t.equal(stage.asked.length, 1, 'once for all that come at the same moment')

  stage.answer = () => null
  t.equal(await stage.verify(token), user)
  passTime(t, minutes)
  t.equal(await stage.verify(token), null, 'a session that has ended')
  t.equal(await stage.verify(token), null)
  t.equal(stage.asked.length, 2)

  stage.answer = () => '019b76da-a800-7000-8000-0000000000bb'
  t.equal(await stage.verify(await signLegacy(legacySecret, claims({ jti: '2' }))), null)
})

t.test('an accepted token is not accepted after its end', async (t) => {
  const key = await makeKey('one')
  const stage = await setStage(t, [key], legacySecret)
  const payload = claims({ exp: seconds() + 10 })
  const tokens = [await sign(key, payload), await signLegacy(legacySecret, payload)]
  const asking = await setStage(t, [])
  asking.answer = () => user
  const verifyAll = async () => [
    await asking.verify(tokens[1] as string),
    ...(await Promise.all(tokens.map(stage.verify)))
  ]
  t.strictSame(await verifyAll(), [user, user, user])
  passTime(t, 11_000)
  t.strictSame(await verifyAll(), [null, null, null])
})

t.test('what no token of this project looks like is refused without asking', async (t) => {
  const [key, forged] = [await makeKey('one'), await makeKey('one')]
  const stage = await setStage(t, [key], legacySecret)
  stage.answer = () => user
  const good = await sign(key)
  const [header = '', payload = '', signature = ''] = good.split('.')
  const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const publicKey = JSON.stringify(key.jwk)
  const { sub: _, ...withoutUser } = claims()
  const bad: Readonly<Record<string, string>> = {
    nothing: '',
    'no token': 'sb_secret_test',
    'three parts of nothing': '..',
    'no JSON': 'a.b.c',
    'alg none': `${encode({ alg: 'none' })}.${payload}.`,
    'alg none with a signature': `${encode({ alg: 'None' })}.${payload}.${signature}`,
    'another payload': `${header}.${encode(claims({ sub: 'somebody else' }))}.${signature}`,
    'no signature': `${header}.${payload}.`,
    'a key of the same name': await sign(forged),
    'the public key as a secret': await signLegacy(publicKey),
    'another project': await sign(key, claims({ iss: 'https://other.example/auth/v1' })),
    'a role key': await signLegacy(legacySecret, { role: 'service_role', iss: 'supabase' }),
    'another audience': await sign(key, claims({ aud: 'anon' })),
    expired: await sign(key, claims({ exp: seconds() - 1 })),
    'without an end': await sign(key, { iss: issuer, aud: 'authenticated', sub: user }),
    'without a user': await sign(key, withoutUser)
  }
  for (const [name, token] of Object.entries(bad)) t.equal(await stage.verify(token), null, name)
  t.strictSame(stage.asked, [])
  t.equal(await stage.verify(good), user, 'the good one is')
})

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise((resolve) => setImmediate(resolve))
}
