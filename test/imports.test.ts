import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import t from 'tap'
import { packageFile } from '../adapters/package-files.js'
import { storages } from '../adapters/storage/registry.js'

const root = packageFile('.').pathname

/** Imports run one way: a folder may import itself and the folders before it. */
const layers = ['schemas', 'adapters', 'src', 'test'] as const

/** Who may name a concrete adapter: the registries that choose among them, and a command for one. */
const mayName = [
  'adapters/storage/registry.ts',
  'adapters/identity/registry.ts',
  'adapters/llm/registry.ts',
  'src/migrate.ts'
]
const kinds = storages.map(({ kind }) => kind).join('|')
const concrete = new RegExp(
  `^adapters/(storage/(${kinds})|identity/(local|supabase)|llm/openai)(-[a-z-]+)?\\.ts$`
)

function sources(folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => join(folder, name))
}

/** The files of ours that a file imports, as paths from the root. */
function importsOf(file: string, { toRun = false } = {}): string[] {
  const all = readFileSync(join(root, file), 'utf8')
  const text = toRun ? all.replaceAll(/^(import|export) type [^']*'[^']*'/gm, '') : all
  const found = text.matchAll(/(?:from|import)\s*\(?\s*'(\.[^']+)'/g)
  return [...found].map(([, path = '']) =>
    normalize(join(dirname(file), path)).replace(/\.js$/, '.ts')
  )
}

t.test('imports run one way: schemas, adapters, src, test', async (t) => {
  for (const [rank, layer] of layers.entries())
    for (const file of sources(layer)) {
      const allowed: readonly string[] = layers.slice(0, rank + 1)
      const wrong = importsOf(file).filter((path) => !allowed.includes(path.split('/')[0] ?? ''))
      t.strictSame(wrong, [], file)
    }
})

t.test('no file needs itself, by whatever way', async (t) => {
  const files = [...sources('schemas'), ...sources('adapters'), ...sources('src')]
  const needed = new Map(files.map((file) => [file, importsOf(file, { toRun: true })]))
  function addNeeded(file: string, found: Set<string>): Set<string> {
    for (const each of needed.get(file) ?? [])
      if (!found.has(each)) addNeeded(each, found.add(each))
    return found
  }
  for (const file of files) t.notOk(addNeeded(file, new Set()).has(file), file)
})

t.test(
  'the API imports ports, and only registries and npm run migrate import a concrete adapter',
  async (t) => {
    for (const file of [...sources('src'), ...sources('schemas'), ...sources('adapters')]) {
      if (mayName.includes(file)) continue
      const family = file.replace(/[-.].*$/, '')
      const wrong = importsOf(file).filter(
        (path) => concrete.test(path) && !path.startsWith(family)
      )
      t.strictSame(wrong, [], file)
    }
  }
)

t.test('one file chooses among the releases of better-sqlite3', async (t) => {
  const chooser = 'adapters/storage/better-sqlite3.ts'
  for (const file of layers.flatMap(sources)) {
    if (file === chooser) continue
    t.notMatch(
      readFileSync(join(root, file), 'utf8'),
      /(from|import\(|require\() ?'better-sqlite3/,
      file
    )
  }
})

t.test('schemas import nothing but TypeBox', async (t) => {
  for (const file of sources('schemas')) {
    const text = readFileSync(join(root, file), 'utf8')
    const packages = [...text.matchAll(/from '([^.'][^']*)'/g)].map(([, name]) => name)
    t.ok(
      packages.every((name) => name === '@sinclair/typebox'),
      file
    )
  }
})
