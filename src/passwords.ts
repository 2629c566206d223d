import { normalPassword } from '../adapters/identity/normal-passwords.js'
import { LEAST_PASSWORD_LENGTH } from '../schemas/users.js'
import { demoLogin } from './demo-login.js'
import { ApiError } from './problems.js'

let leaked: Promise<ReadonlySet<string>> | undefined

/** The 50,000 or so that leaks have most of: read when the first password is chosen. */
async function readLeaked(): Promise<ReadonlySet<string>> {
  const { dictionary } = await import('@zxcvbn-ts/language-common')
  // Those that nobody could choose take no room; the demo's is in the documentation.
  const choosable = dictionary['passwords-common'].filter(
    ({ length }) => length >= LEAST_PASSWORD_LENGTH
  )
  return new Set([...choosable, demoLogin.password])
}

// The list leaves out what a pattern finds: leaks are full of that, too.

/** Whether it is up to four characters again and again, such as `aaaaaaaa` or `12312312`. */
function isRepeated(password: string): boolean {
  return [1, 2, 3, 4].some((length) => password.startsWith(password.slice(length)))
}

/** Whether each character is the one after, or before, the one before it, such as `87654321`. */
function isSequence(password: string): boolean {
  const codes = [...password].map((character) => character.codePointAt(0) as number)
  return [1, -1].some((step) =>
    codes.every((code, index) => index === 0 || code - (codes[index - 1] as number) === step)
  )
}

/** Whether guessers try it first. */
export async function isEasilyGuessed(password: string): Promise<boolean> {
  leaked ??= readLeaked()
  const lowerCase = password.toLowerCase()
  return (await leaked).has(lowerCase) || isRepeated(lowerCase) || isSequence(lowerCase)
}

/**
 * @throws ApiError `password_refused` for one that guessers try first. How long it must be is said
 *   by its schema; nothing else is asked of it, as NIST SP 800-63B, 5.1.1.2, advises.
 */
export async function assertHardToGuess(password: string): Promise<void> {
  const normal = normalPassword(password)
  // The schema has counted the characters as they were sent.
  if ([...normal].length < LEAST_PASSWORD_LENGTH || (await isEasilyGuessed(normal)))
    throw new ApiError('password_refused')
}
