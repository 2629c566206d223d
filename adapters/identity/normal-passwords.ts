import type { AccountCredentials, Identity } from './port.js'

/**
 * Takes a password in whatever form a keyboard sends it. One that was set by other means is also taken as
 * it is.
 */
export function withNormalPasswords(identity: Identity): Identity {
  return {
    ...identity,
    async signIn(email, password) {
      const signedIn = await identity.signIn(email, normalPassword(password))
      return signedIn || isNormal(password) ? signedIn : identity.signIn(email, password)
    },
    async checkPassword(user, password) {
      const isRight = await identity.checkPassword(user, normalPassword(password))
      return isRight || isNormal(password) ? isRight : identity.checkPassword(user, password)
    },
    createAccount: (account) => identity.createAccount(withNormal(account)),
    updateAccount: (user, change) => identity.updateAccount(user, withNormal(change))
  }
}

function withNormal<T extends Partial<AccountCredentials>>(credentials: T): T {
  const { password } = credentials
  return password === undefined
    ? credentials
    : { ...credentials, password: normalPassword(password) }
}

/** The form in which a password counts: `é` is one character or two, and a space any space (RFC 8265, 4.2). */
export function normalPassword(password: string): string {
  return password.replace(/\p{Zs}/gu, ' ').normalize('NFC')
}

function isNormal(password: string): boolean {
  return normalPassword(password) === password
}
