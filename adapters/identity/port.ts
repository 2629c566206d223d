import type { Tokens } from '../../schemas/auth.js'
import type { User } from '../../schemas/users.js'
import type { Awaitable } from '../awaitable.js'

/** What an access token belongs to. */
export interface TokenSession {
  readonly id: string
  /** When somebody proved to be the user for it, in milliseconds since 1970. */
  readonly since: number
}

export interface SignedIn {
  readonly userId: string
  readonly tokens: Tokens
}

export interface AccountCredentials {
  readonly id: string
  readonly email: string
  readonly password: string
}

/**
 * One side of a change to a user, whose other side is the row. What must happen before the row's
 * commit has happened when a caller gets this; the caller adds `columns` to the row, commits it, then
 * calls `finish`, or `undo` if the commit failed.
 */
export interface AccountChange {
  /** Columns of the user's row. */
  readonly columns: Partial<Pick<User, 'password_hash'>>
  finish(): Promise<void>
  /** @param why what the commit failed with: it may have been stored all the same. */
  undo(why: unknown): Promise<void>
}

/** A change of which nothing is left to finish, or to undo, but for what is given. */
export function accountChange(change: Partial<AccountChange>): AccountChange {
  const nothing = async () => {}
  return { columns: {}, finish: nothing, undo: nothing, ...change }
}

/**
 * Who somebody is. What they may do is in the users table, which is the one truth about roles,
 * tenants and whether the user still exists.
 */
export interface Identity {
  readonly kind: string
  /** The address of the service that keeps the accounts, where another does. */
  readonly service?: string
  /** The user that a valid access token names; null for every other string. */
  verify(token: string): Awaitable<string | null>
  /** Of a token that `verify` accepted: it is not verified again. Null for what is no such token. */
  sessionOf(token: string): TokenSession | null
  /** Null for an unknown email and for a wrong password, at the same cost. */
  signIn(email: string, password: string): Promise<SignedIn | null>
  /** Whether it is the user's password; nobody is signed in by that. */
  checkPassword(user: Readonly<User>, password: string): Promise<boolean>
  /** Null for a refresh token that is spent, expired or not ours. */
  refresh(refreshToken: string): Promise<SignedIn | null>
  /** Ends the session that an access token belongs to. */
  signOut(token: string): Promise<void>
  /**
   * Goes on with an account that another try of the same request left under this very id: whoever
   * gives an id again gives the same email and password.
   *
   * @throws AccountError where the password or the email cannot be accepted.
   */
  createAccount(account: AccountCredentials): Promise<AccountChange>
  updateAccount(
    user: Readonly<User>,
    change: Partial<Pick<AccountCredentials, 'email' | 'password'>>
  ): Promise<AccountChange>
  deleteAccount(user: Readonly<User>): Promise<AccountChange>
}

export type AccountErrorCode =
  | 'email_taken'
  /** Somebody else is making an account with this email at the moment. */
  | 'email_busy'
  | 'email_refused'
  | 'password_refused'

/** An account that cannot be as asked. */
export class AccountError extends Error {
  override readonly name = 'AccountError'
  constructor(
    readonly code: AccountErrorCode,
    message: string,
    options?: ErrorOptions
  ) {
    super(message, options)
  }
}
