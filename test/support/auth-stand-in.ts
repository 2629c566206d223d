import { randomBytes, randomUUID } from 'node:crypto'
import type http from 'node:http'
import { hash, verify } from '@node-rs/argon2'
import {
  type CryptoKey,
  exportJWK,
  generateKeyPair,
  type JWTPayload,
  jwtVerify,
  SignJWT
} from 'jose'
import pg from 'pg'
import type { Route } from './supabase-gateway.js'

/**
 * A STAND-IN for Supabase Auth, which no package brings to a machine without containers. It
 * behaves as the real one does where this project uses it: paths and bodies by its OpenAPI document
 * (https://github.com/supabase/auth/blob/master/openapi.yaml), codes by
 * https://supabase.com/docs/guides/auth/debugging/error-codes. Users, sessions and refresh tokens
 * are in the schema `auth` of the project's database. Nothing may be asserted of it that does not
 * hold for the real one.
 */
export interface AuthStandIn {
  readonly route: Route
  /** What an operator of a project may set. */
  readonly settings: AuthSettings
  /** Signs with a new key from now on; the ones before stay published. */
  rotateKey(): Promise<void>
  close(): Promise<void>
}

export interface AuthSettings {
  /** HS256 is the legacy secret of the project. */
  algorithm: 'ES256' | 'RS256' | 'HS256'
  tokenSeconds: number
  /** How long a spent refresh token is tolerated. */
  reuseSeconds: number
  minPasswordLength: number
  /** Releases before September 2026 look at a password only when it is changed. */
  checksNewPasswords: boolean
}

export interface AuthStandInOptions {
  readonly databaseUrl: string
  /** Signs the keys of the project's roles. */
  readonly jwtSecret: string
  /** Who says so in tokens: `<project>/auth/v1`. Asked when the project listens. */
  readonly issuer: () => string
}

interface AuthUserRow {
  readonly id: string
  readonly email: string
  readonly encrypted_password: string
  readonly email_confirmed_at: Date | null
  readonly banned_until: Date | null
  readonly raw_app_meta_data: object
  readonly created_at: Date
  readonly updated_at: Date
}

interface SigningKey {
  readonly kid: string
  readonly alg: 'ES256' | 'RS256'
  readonly privateKey: CryptoKey
  readonly publicKey: CryptoKey
}

interface Call {
  readonly params: readonly string[]
  readonly query: URLSearchParams
  readonly body: Readonly<Record<string, unknown>>
  readonly bearer: string | undefined
}

/** An answer that is no success. */
class AuthProblem extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly more: object = {}
  ) {
    super(message)
  }
}

const tables = `
  create schema if not exists auth;
  create table auth.users (
    id uuid primary key, email text not null unique, encrypted_password text not null,
    email_confirmed_at timestamptz, banned_until timestamptz, raw_app_meta_data jsonb not null,
    created_at timestamptz not null default now(), updated_at timestamptz not null default now());
  create table auth.sessions (
    id uuid primary key, user_id uuid not null references auth.users on delete cascade);
  create table auth.refresh_tokens (
    id bigserial primary key, token text not null unique, parent text, revoked boolean not null default false,
    session_id uuid not null references auth.sessions on delete cascade,
    updated_at timestamptz not null default now())`

/** The least that argon2 does; the real one has bcrypt, and its limit of 72 bytes. */
const cheap = { memoryCost: 8, timeCost: 1, parallelism: 1 }
const MOST_PASSWORD_BYTES = 72

export async function startAuthStandIn(options: AuthStandInOptions): Promise<AuthStandIn> {
  const secret = new TextEncoder().encode(options.jwtSecret)
  const pool = new pg.Pool({
    connectionString: options.databaseUrl,
    max: 4,
    // The server's own style of dates is one that the driver does not read.
    options: '-c datestyle=ISO'
  })
  const settings: AuthSettings = {
    algorithm: 'ES256',
    tokenSeconds: 3600,
    reuseSeconds: 10,
    minPasswordLength: 6,
    checksNewPasswords: true
  }
  const keys: SigningKey[] = []
  await pool.query(tables)
  pool.on('error', () => {})

  async function rows<Row extends object>(
    sql: string,
    values: unknown[],
    client: pg.ClientBase | pg.Pool = pool
  ): Promise<Row[]> {
    return (await client.query(sql, values)).rows as Row[]
  }

  async function transaction<T>(run: (client: pg.ClientBase) => Promise<T>): Promise<T> {
    const client = await pool.connect()
    try {
      await client.query('begin')
      const result = await run(client)
      await client.query('commit')
      return result
    } catch (error) {
      await client.query('rollback')
      throw error
    } finally {
      client.release()
    }
  }

  async function makeKey(alg: 'ES256' | 'RS256'): Promise<SigningKey> {
    const key = { kid: randomUUID(), alg, ...(await generateKeyPair(alg)) }
    keys.push(key)
    return key
  }

  async function sign(user: AuthUserRow, sessionId: string): Promise<string> {
    const { algorithm } = settings
    const jwt = new SignJWT({
      email: user.email,
      app_metadata: user.raw_app_meta_data,
      role: 'authenticated',
      aal: 'aal1',
      session_id: sessionId
    } as JWTPayload)
      .setIssuer(options.issuer())
      .setSubject(user.id)
      .setAudience('authenticated')
      .setIssuedAt()
      .setExpirationTime(Math.floor(Date.now() / 1000) + settings.tokenSeconds)
    if (algorithm === 'HS256')
      return jwt.setProtectedHeader({ alg: algorithm, typ: 'JWT' }).sign(secret)
    const key = keys.findLast(({ alg }) => alg === algorithm) ?? (await makeKey(algorithm))
    return jwt.setProtectedHeader({ alg: algorithm, kid: key.kid, typ: 'JWT' }).sign(key.privateKey)
  }

  async function claimsOf(bearer: string | undefined): Promise<JWTPayload> {
    if (!bearer)
      throw new AuthProblem(401, 'no_authorization', 'This endpoint requires a Bearer token')
    try {
      const { payload } = await jwtVerify(bearer, ({ kid, alg }) => {
        const key = keys.find((each) => each.kid === kid)
        if (key) return key.publicKey
        if (alg === 'HS256') return secret
        throw new Error('unrecognized JWT kid')
      })
      return payload
    } catch (error) {
      const why = (error as Error).message
      throw new AuthProblem(
        403,
        'bad_jwt',
        `invalid JWT: unable to parse or verify signature, ${why}`
      )
    }
  }

  /** Who a token of a user belongs to, if its session goes on. */
  async function userOf(bearer: string | undefined) {
    const { sub, session_id } = await claimsOf(bearer)
    if (!sub) throw new AuthProblem(403, 'bad_jwt', 'invalid claim: missing sub claim')
    const [user] = await rows<AuthUserRow>('select * from auth.users where id = $1', [sub])
    if (!user)
      throw new AuthProblem(403, 'user_not_found', 'User from sub claim in JWT does not exist')
    const [session] = await rows('select from auth.sessions where id = $1', [session_id])
    if (!session)
      throw new AuthProblem(
        403,
        'session_not_found',
        'Session from session_id claim in JWT does not exist'
      )
    return { user, sessionId: session_id as string }
  }

  async function asAdmin(bearer: string | undefined): Promise<void> {
    const { role } = await claimsOf(bearer)
    if (role !== 'service_role') throw new AuthProblem(403, 'not_admin', 'User not allowed')
  }

  async function addToken(client: pg.ClientBase, sessionId: string, parent: string | null) {
    const token = randomBytes(9).toString('base64url')
    const sql = 'insert into auth.refresh_tokens (token, parent, session_id) values ($1, $2, $3)'
    await client.query(sql, [token, parent, sessionId])
    return token
  }

  async function tokens(user: AuthUserRow, sessionId: string, refresh_token: string) {
    return {
      access_token: await sign(user, sessionId),
      token_type: 'bearer',
      expires_in: settings.tokenSeconds,
      expires_at: Math.floor(Date.now() / 1000) + settings.tokenSeconds,
      refresh_token,
      user: userJson(user)
    }
  }

  async function passwordGrant({ email, password }: Call['body']) {
    const [user] = await rows<AuthUserRow>('select * from auth.users where email = $1', [
      String(email).toLowerCase()
    ])
    if (user?.banned_until && user.banned_until > new Date())
      throw new AuthProblem(400, 'user_banned', 'User is banned')
    if (!user || !(await verify(user.encrypted_password, String(password))))
      throw new AuthProblem(400, 'invalid_credentials', 'Invalid login credentials')
    if (!user.email_confirmed_at)
      throw new AuthProblem(400, 'email_not_confirmed', 'Email not confirmed')
    const sessionId = randomUUID()
    const refreshToken = await transaction(async (client) => {
      await client.query('insert into auth.sessions values ($1, $2)', [sessionId, user.id])
      return addToken(client, sessionId, null)
    })
    return tokens(user, sessionId, refreshToken)
  }

  async function refreshGrant({ refresh_token }: Call['body']) {
    if (!refresh_token) throw new AuthProblem(400, 'validation_failed', 'refresh_token required')
    const granted = await transaction((client) => exchange(client, String(refresh_token)))
    if (!granted)
      throw new AuthProblem(
        400,
        'refresh_token_already_used',
        'Invalid Refresh Token: Already Used'
      )
    const [user] = await rows<AuthUserRow>(
      'select u.* from auth.users u join auth.sessions s on s.user_id = u.id where s.id = $1',
      [granted.sessionId]
    )
    return tokens(user as AuthUserRow, granted.sessionId, granted.token)
  }

  /** Null where the token was used before, which ends its whole family. */
  async function exchange(client: pg.ClientBase, token: string) {
    interface Spent {
      readonly session_id: string
      readonly revoked: boolean
      readonly age: number
    }
    const [spent] = await rows<Spent>(
      `select t.session_id, t.revoked, extract(epoch from now() - t.updated_at)::float as age
       from auth.refresh_tokens t join auth.sessions s on s.id = t.session_id
       where t.token = $1 for update of s`,
      [token],
      client
    )
    if (!spent)
      throw new AuthProblem(
        400,
        'refresh_token_not_found',
        'Invalid Refresh Token: Refresh Token Not Found'
      )
    const { session_id: sessionId } = spent
    const [now] = await rows<{ revoked: boolean }>(
      'select revoked from auth.refresh_tokens where token = $1',
      [token],
      client
    )
    if (now?.revoked) {
      const [active] = await rows<{ token: string; parent: string | null }>(
        `select token, parent from auth.refresh_tokens
         where session_id = $1 and not revoked order by id desc limit 1`,
        [sessionId],
        client
      )
      // Its answer may have been lost: the one that it was exchanged for is given again.
      if (active?.parent === token) return { sessionId, token: active.token }
      if (spent.age > settings.reuseSeconds) {
        await client.query(
          'update auth.refresh_tokens set revoked = true, updated_at = now() where session_id = $1',
          [sessionId]
        )
        return null
      }
    }
    await client.query(
      'update auth.refresh_tokens set revoked = true, updated_at = now() where token = $1',
      [token]
    )
    return { sessionId, token: await addToken(client, sessionId, token) }
  }

  async function hashed(password: string): Promise<string> {
    if (Buffer.byteLength(password) > MOST_PASSWORD_BYTES)
      throw new AuthProblem(400, 'validation_failed', 'bcrypt: password length exceeds 72 bytes')
    return hash(password, cheap)
  }

  function checkStrength(password: string): void {
    if (Buffer.byteLength(password) >= settings.minPasswordLength) return
    const message = `Password should be at least ${settings.minPasswordLength} characters.`
    const reasons = { weak_password: { reasons: ['length'] } }
    throw new AuthProblem(422, 'weak_password', message, reasons)
  }

  async function createUser({ id, email, password, email_confirm, app_metadata }: Call['body']) {
    if (!email)
      throw new AuthProblem(
        400,
        'validation_failed',
        'Cannot create a user without either an email or phone'
      )
    const address = checkedAddress(email)
    if ((await rows('select from auth.users where email = $1', [address])).length)
      throw new AuthProblem(
        422,
        'email_exists',
        'A user with this email address has already been registered'
      )
    if (password && settings.checksNewPasswords) checkStrength(String(password))
    const encrypted = await hashed(String(password || randomUUID()))
    const metadata = { provider: 'email', providers: ['email'], ...(app_metadata as object) }
    const confirmedAt = email_confirm ? new Date() : null
    const values = [id ?? randomUUID(), address, encrypted, confirmedAt, metadata]
    const [user] = await rows<AuthUserRow>(
      `insert into auth.users (id, email, encrypted_password, email_confirmed_at, raw_app_meta_data)
       values ($1, $2, $3, $4, $5) returning *`,
      values
    ).catch(() => {
      throw new AuthProblem(500, 'unexpected_failure', 'Database error creating new user')
    })
    return userJson(user as AuthUserRow)
  }

  async function needUser(id = ''): Promise<AuthUserRow> {
    const [user] = await rows<AuthUserRow>('select * from auth.users where id = $1', [id])
    if (!user) throw new AuthProblem(404, 'user_not_found', 'User not found')
    return user
  }

  async function updateUser(id: string, { email, password, email_confirm }: Call['body']) {
    const before = await needUser(id)
    const address = email ? checkedAddress(email) : before.email
    if (password) checkStrength(String(password))
    const encrypted = password ? await hashed(String(password)) : before.encrypted_password
    const confirmedAt = email_confirm ? new Date() : before.email_confirmed_at
    const [user] = await rows<AuthUserRow>(
      `update auth.users set email = $2, encrypted_password = $3, email_confirmed_at = $4,
         updated_at = now() where id = $1 returning *`,
      [id, address, encrypted, confirmedAt]
    ).catch(() => {
      throw new AuthProblem(500, 'unexpected_failure', 'Error updating user')
    })
    if (password) await rows('delete from auth.sessions where user_id = $1', [id])
    return userJson(user as AuthUserRow)
  }

  async function listUsers(query: URLSearchParams) {
    const perPage = Number(query.get('per_page') || 50)
    const page = Number(query.get('page') || 1)
    const users = await rows<AuthUserRow>(
      `select * from auth.users where email like '%' || $1 || '%'
       order by created_at desc limit $2 offset $3`,
      [query.get('filter') ?? '', perPage, (page - 1) * perPage]
    )
    return { users: users.map(userJson), aud: 'authenticated' }
  }

  const calls: readonly (readonly [RegExp, (call: Call) => Promise<object | null>])[] = [
    [
      /^POST \/token$/,
      async ({ query, body }) => {
        const grant = query.get('grant_type')
        if (grant === 'password') return passwordGrant(body)
        if (grant === 'refresh_token') return refreshGrant(body)
        throw new AuthProblem(400, 'invalid_credentials', 'unsupported_grant_type')
      }
    ],
    [
      /^POST \/logout$/,
      async ({ bearer, query }) => {
        const { user, sessionId } = await userOf(bearer)
        const everywhere = (query.get('scope') ?? 'global') === 'global'
        await rows('delete from auth.sessions where user_id = $1 and (id = $2 or $3)', [
          user.id,
          sessionId,
          everywhere
        ])
        return null
      }
    ],
    [/^GET \/user$/, async ({ bearer }) => userJson((await userOf(bearer)).user)],
    [
      /^GET \/\.well-known\/jwks\.json$/,
      async () => ({
        keys: await Promise.all(
          keys.map(async ({ publicKey, kid, alg }) => ({
            ...(await exportJWK(publicKey)),
            kid,
            alg,
            use: 'sig',
            key_ops: ['verify']
          }))
        )
      })
    ],
    [
      /^POST \/admin\/users$/,
      async ({ bearer, body }) => {
        await asAdmin(bearer)
        return createUser(body)
      }
    ],
    [
      /^GET \/admin\/users$/,
      async ({ bearer, query }) => {
        await asAdmin(bearer)
        return listUsers(query)
      }
    ],
    [
      /^GET \/admin\/users\/([0-9a-f-]{36})$/,
      async ({ bearer, params: [id] }) => {
        await asAdmin(bearer)
        return userJson(await needUser(id))
      }
    ],
    [
      /^PUT \/admin\/users\/([0-9a-f-]{36})$/,
      async ({ bearer, params: [id = ''], body }) => {
        await asAdmin(bearer)
        return updateUser(id, body)
      }
    ],
    [
      /^DELETE \/admin\/users\/([0-9a-f-]{36})$/,
      async ({ bearer, params: [id] }) => {
        await asAdmin(bearer)
        await needUser(id)
        await rows('delete from auth.users where id = $1', [id])
        return {}
      }
    ]
  ]

  async function handle(request: http.IncomingMessage): Promise<object | null> {
    const url = new URL(`http://auth${request.url?.replace('/auth/v1', '')}`)
    const target = `${request.method} ${url.pathname}`
    for (const [pattern, call] of calls) {
      const match = pattern.exec(target)
      if (!match) continue
      const [, bearer] = /^Bearer (.+)$/i.exec(request.headers.authorization ?? '') ?? []
      const body = await readBody(request)
      return call({ params: match.slice(1), query: url.searchParams, body, bearer })
    }
    throw new AuthProblem(404, 'not_found', 'not found')
  }

  return {
    settings,
    rotateKey: async () => {
      if (settings.algorithm !== 'HS256') await makeKey(settings.algorithm)
    },
    close: () => pool.end(),
    route(request, response) {
      handle(request).then(
        (body) => answer(response, body === null ? 204 : 200, body),
        (error) => refuse(request, response, error)
      )
    }
  }
}

async function readBody(request: http.IncomingMessage): Promise<Call['body']> {
  let text = ''
  for await (const chunk of request.setEncoding('utf8')) text += chunk
  try {
    return text ? JSON.parse(text) : {}
  } catch {
    throw new AuthProblem(400, 'bad_json', 'Could not parse request body as JSON')
  }
}

function checkedAddress(email: unknown): string {
  const address = String(email).toLowerCase()
  if (!/^[^@\s]+@[^@\s]+\.[^@\s]+$/.test(address))
    throw new AuthProblem(
      400,
      'validation_failed',
      'Unable to validate email address: invalid format'
    )
  return address
}

function userJson(user: AuthUserRow) {
  return {
    id: user.id,
    aud: 'authenticated',
    role: 'authenticated',
    email: user.email,
    email_confirmed_at: user.email_confirmed_at,
    app_metadata: user.raw_app_meta_data,
    user_metadata: {},
    created_at: user.created_at,
    updated_at: user.updated_at
  }
}

/** In the form that the client's version of the API has. */
function refuse(request: http.IncomingMessage, response: http.ServerResponse, error: unknown) {
  const problem =
    error instanceof AuthProblem
      ? error
      : new AuthProblem(500, 'unexpected_failure', 'Unexpected failure, please check server logs')
  const { status, code, message, more } = problem
  const version = request.headers['x-supabase-api-version']
  if (typeof version === 'string' && version >= '2024-01-01') {
    response.setHeader('x-supabase-api-version', '2024-01-01')
    answer(response, status, { code, message, ...more })
  } else answer(response, status, { code: status, error_code: code, msg: message, ...more })
}

function answer(response: http.ServerResponse, status: number, body: object | null): void {
  response.writeHead(status, { 'content-type': 'application/json' })
  response.end(body === null ? undefined : JSON.stringify(body))
}
