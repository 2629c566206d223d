import { existsSync } from 'node:fs'

/**
 * The address of a file of this package, such as `migrations/sqlite/`. Sources and the build in
 * `dist/` stand at different depths below it.
 *
 * @throws Error where no folder above has a package.json, as when `dist/` was copied without it.
 */
export function packageFile(path: string): URL {
  let folder = new URL('.', import.meta.url)
  while (!existsSync(new URL('package.json', folder))) {
    const above = new URL('..', folder)
    if (above.href === folder.href)
      throw new Error('There is no package.json above this file: keep it beside dist/.')
    folder = above
  }
  return new URL(path, folder)
}
