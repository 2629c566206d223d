/**
 * Why something cannot be tested on this machine: the parts that it lacks. Never with CI=true, where
 * it is tried and fails.
 */
export function lacks(...missing: readonly (string | false)[]): string | false {
  const names = missing.filter(Boolean)
  return names.length > 0 && process.env.CI !== 'true' && `needs ${names.join(' and ')}`
}
