import { readFileSync } from 'node:fs'
import { packageFile } from '../../adapters/package-files.js'

/** The least share of each that the tests must run, in percent. */
const least = { lines: 95, branches: 90 } as const

const summary = JSON.parse(readFileSync(packageFile('.tap/report/coverage-summary.json'), 'utf8'))
for (const [name, bound] of Object.entries(least)) {
  const { pct } = summary.total[name]
  const enough = pct >= bound
  process.stdout.write(`${enough ? 'ok' : 'not ok'} - ${name}: ${pct} % of at least ${bound} %\n`)
  if (!enough) process.exitCode = 1
}
