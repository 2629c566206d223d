import { mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import { packageFile } from '../adapters/package-files.js'

/** The programs of a release, which run as `node dist/src/server.js` and so on. */
const release = [
  'src/server.ts',
  'src/migrate.ts',
  'src/seed.ts',
  'src/keys-command.ts',
  'src/users-command.ts'
]

/**
 * Bundles programs of one folder into the same folder below `dist/`. TypeBox and our own code are
 * three hundred files, which take Node.js longer to find and load than to run; of the bundles a
 * start loads some twenty. Other packages stay as they are installed.
 */
async function bundle(programs: string[]): Promise<void> {
  const folder = dirname(programs[0] as string)
  const root = fileURLToPath(packageFile('.'))
  const outdir = join(root, 'dist', folder)
  const { outputFiles } = await build({
    absWorkingDir: root,
    entryPoints: programs,
    outbase: folder,
    outdir,
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node20.19',
    packages: 'external',
    alias: { '@sinclair/typebox': './node_modules/@sinclair/typebox/build/esm' },
    resolveExtensions: ['.ts', '.mjs'],
    sourcemap: true,
    write: false,
    logLevel: 'warning'
  })
  await mkdir(outdir, { recursive: true })
  for (const { path, contents } of outputFiles) {
    // A server that starts meanwhile must not read half of a file.
    const aside = `${path}.${process.pid}`
    await writeFile(aside, contents)
    await rename(aside, path)
  }
  // Chunks are named by what they hold, so those of earlier builds would stay.
  const made = new Set(outputFiles.map(({ path }) => path))
  for (const name of await readdir(outdir)) {
    const path = join(outdir, name)
    if (/\.js(\.map)?$/.test(name) && !made.has(path)) await rm(path, { force: true })
  }
}

const asked = process.argv.slice(2)
await bundle(asked.length > 0 ? asked : release)
