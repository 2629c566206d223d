import { rmSync } from 'node:fs'
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

// Tests that were renamed since must not run.
rmSync(outdir, { recursive: true, force: true })
await build({
  absWorkingDir: root,
  entryPoints: ['schemas/**/*.ts', 'adapters/**/*.ts', 'src/**/*.ts', 'test/**/*.ts'],
  outbase: '.',
  outdir,
  platform: 'node',
  target: 'node20.19',
  sourcemap: true,
  logLevel: 'warning'
})
