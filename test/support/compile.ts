import { readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import { packageFile } from '../../adapters/package-files.js'

/**
 * Compiles the tests and all that they import to `dist/tests/`. Each test file is a process of its
 * own, which would otherwise load a compiler and compile its imports anew. `npm test` gives these
 * processes `TAP_TYPE_STRIP_ONLY`, by which tap's plugin for TypeScript stays out of them; as an option
 * of tap, Node.js 20 would not have it.
 */
const root = fileURLToPath(packageFile('.'))
const outdir = join(root, 'dist', 'tests')
const entryPoints = ['schemas', 'adapters', 'src', 'test'].flatMap((folder) =>
  readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => join(folder, name))
)

// Tests that were renamed since must not run.
rmSync(outdir, { recursive: true, force: true })
await build({
  absWorkingDir: root,
  entryPoints,
  outbase: '.',
  outdir,
  platform: 'node',
  target: 'node20.19',
  sourcemap: true,
  logLevel: 'warning'
})
