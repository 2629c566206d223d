import { existsSync } from 'node:fs'

/**
 * The address of a file of this package, such as `migrations/sqlite/`. Sources and the build in
 * `dist/` stand at different depths below it.
 */
export function packageFile(path: string): URL {
  let folder = new URL('.', import.meta.url)
  while (!existsSync(new URL('package.json', folder))) folder = new URL('..', folder)
  return new URL(path, folder)
}
