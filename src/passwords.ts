import { demoLogin } from './demo-data.js'
import { ApiError } from './problems.js'

let leaked: Promise<ReadonlySet<string>> | undefined

/** The 50,000 or so that leaks have most of: read when the first password is chosen. */
async function readLeaked(): Promise<ReadonlySet<string>> {
  const { dictionary } = await import('@zxcvbn-ts/language-common')
  // Those that nobody could choose take no room; the demo's is in the documentation.
  const choosable = dictionary['passwords-common'].filter(({ length }) => length >= 8)
  return new Set([...choosable, demoLogin.password])
}

/**
 * @throws ApiError `password_refused` for one that guessers try first. How long it must be is said
 *   by its schema; nothing else is asked of it, as NIST SP 800-63B, 5.1.1.2, advises.
 */
export async function assertNotLeaked(password: string): Promise<void> {
  leaked ??= readLeaked()
  if ((await leaked).has(password.toLowerCase()))
    throw new ApiError(
      'password_refused',
      'The password is known from leaks, so that guessers try it early. Choose another.'
    )
}
