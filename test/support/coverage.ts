import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { packageFile } from '../../adapters/package-files.js'

/** The least share of each that the tests must run, in percent. */
const least = { lines: 95, branches: 90 }

type Name = keyof typeof least
type Counts = Readonly<Record<Name, { total: number; covered: number }>>

const summary: Record<string, Counts> = JSON.parse(
  readFileSync(packageFile('.tap/report/coverage-summary.json'), 'utf8')
)
// What the tests have of their own is in the report, too: tap does not know it by its compiled paths.
const folders = ['schemas/', 'adapters/', 'src/'].map((name) => fileURLToPath(packageFile(name)))
const files = Object.entries(summary)
  .filter(([path]) => folders.some((folder) => path.startsWith(folder)))
  .map(([, counts]) => counts)

for (const name of Object.keys(least) as Name[]) {
  const sum = (of: 'total' | 'covered') => files.reduce((all, each) => all + each[name][of], 0)
  const percent = Math.floor((sum('covered') / sum('total')) * 10_000) / 100
  const enough = percent >= least[name]
  process.stdout.write(
    `${enough ? 'ok' : 'not ok'} - ${name}: ${percent} % of at least ${least[name]} %\n`
  )
  if (!enough) process.exitCode = 1
}
