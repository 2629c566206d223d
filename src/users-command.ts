import { randomBytes } from 'node:crypto'
import { buffer } from 'node:stream/consumers'
import type { ErrorObject } from 'ajv'
import { ACROSS_TENANTS, type Storage, type TenantId } from '../adapters/storage/port.js'
import { Password, users } from '../schemas/users.js'
import { bySystem } from './audit-entry.js'
import { textViolation } from './clean-values.js'
import { runCommand } from './command.js'
import { readKeptEnvironment } from './configuration.js'
import { type Opened, openBackend } from './open.js'
import { createPrincipals } from './principals.js'
import { ApiError } from './problems.js'
import { createStore } from './store.js'
import { createUsers, type UserRow } from './users.js'
import { decodeUtf8 } from './utf8.js'
import { compiledWhenNeeded, createAjv, describeViolation } from './validator.js'

const usage = `Usage: npm run users -- reset-password EMAIL

Gives a user another password, which ends the user's sessions, while the API serves. The password is
the one line on standard input. Where that is a terminal, one is drawn at random and shown once.
`

async function main(args: readonly string[]): Promise<void> {
  const [name, email, ...rest] = args
  if (name !== 'reset-password' || !email || rest.length) {
    process.stderr.write(usage)
    process.exitCode = 2
    return
  }
  const env = readKeptEnvironment('Users in memory end with the server that has them.')
  const drawn = process.stdin.isTTY ? drawPassword() : null
  const password = drawn ?? (await readPassword())
  const opened = await openBackend(env, { mayMake: false })
  try {
    const user = await resetPassword(opened, email, password)
    print(user, drawn)
  } finally {
    await opened.storage.close()
  }
}

/** As an admin's change of the user does it, so that the same ends and the same is on record. */
async function resetPassword(
  { storage, identity }: Opened,
  email: string,
  password: string
): Promise<UserRow> {
  const user = await findUser(storage, email)
  const store = createStore(storage, { tenant: user.tenant_id as TenantId, ...bySystem })
  const accounts = createUsers(storage, identity, createPrincipals(storage))
  return accounts.update(store, user.id, { password }, {})
}

/** @throws ApiError `not_found` */
async function findUser(storage: Storage, email: string): Promise<UserRow> {
  const from = { resource: users, tenant: ACROSS_TENANTS } as const
  const filter = { email: email.toLowerCase() }
  const { rows } = await storage.list(from, { filter, limit: 1 })
  const [user] = rows
  if (!user) throw new ApiError('not_found', `There is no user with the email ${email}.`)
  return user
}

/** 144 random bits, in characters that every terminal copies. */
function drawPassword(): string {
  return randomBytes(18).toString('base64url')
}

/**
 * What standard input has, but for the end of its line.
 * @throws ApiError `validation_failed` for what the API would refuse in a body.
 */
async function readPassword(): Promise<string> {
  // In another encoding it would be another password than the one that is typed to sign in.
  const input = decodeUtf8(await buffer(process.stdin)) ?? refuse('The password is not in UTF-8.')
  const password = input.replace(/\r?\n$/, '')
  if (password === '')
    refuse('Standard input has no password: give it in one line, or use a terminal to get one.')
  if (/[\r\n]/.test(password))
    refuse('Standard input has several lines: give the password alone, in one line.')
  const violation = textViolation(password) ?? lengthViolation(password)
  if (violation) refuse(`The password ${violation}.`)
  return password
}

const checkLength = compiledWhenNeeded(createAjv(), Password())

function lengthViolation(password: string): string | null {
  return checkLength(password) ? null : describeViolation(checkLength.errors?.[0] as ErrorObject)
}

function refuse(detail: string): never {
  throw new ApiError('validation_failed', detail)
}

function print({ email }: UserRow, drawn: string | null): void {
  const ended = 'Sessions from before end within a minute.'
  const lines = drawn
    ? [
        `The new password of ${email}, which is shown only now:`,
        drawn,
        `Sign in with it, and change it with PATCH /api/users/me. ${ended}`
      ]
    : [`${email} has the new password. ${ended}`]
  process.stdout.write(`${lines.join('\n')}\n`)
}

runCommand(() => main(process.argv.slice(2)))
