import { readdir, rm } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { build } from 'esbuild'

/** The programs of a release, which run as `node dist/src/server.js` and so on. */
const release = ['src/server.ts', 'src/migrate.ts', 'src/seed.ts', 'src/keys-command.ts']

/**
 * Bundles programs of one folder into the same folder below `dist/`. TypeBox and our own code are
 * three hundred files, which take Node.js longer to find and load than to run; bundled they are
 * some twenty. Other packages stay as they are installed.
 */
async function bundle(programs: string[]): Promise<void> {
  const folder = dirname(programs[0] as string)
  const outdir = `dist/${folder}`
  const { metafile } = await build({
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
    metafile: true,
    logLevel: 'warning'
  })
  const made = new Set(Object.keys(metafile.outputs).map((path) => resolve(path)))
  // Chunks are named by what they hold, so those of earlier builds stay.
  for (const entry of await readdir(outdir, { recursive: true, withFileTypes: true })) {
    const path = resolve(entry.parentPath, entry.name)
    if (entry.isFile() && !made.has(path)) await rm(path)
  }
}

const asked = process.argv.slice(2)
await bundle(asked.length > 0 ? asked : release)
