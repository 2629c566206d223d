type Failure = NodeJS.ErrnoException & { readonly errors?: readonly unknown[] }

/**
 * Why something failed, in words. Where a name has several addresses and none answers, Node's error
 * has no message of its own, and an error for each of them.
 */
export function reasonOf(error: unknown): string {
  const { message, errors = [], code, name } = error as Failure
  return message || errors.map(reasonOf).join('; ') || code || name
}
