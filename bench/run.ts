import { parseArgs } from 'node:util'
import { type Extent, groups } from './groups.js'
import { format, formatProfile, formatReach, isReached, keep, machine } from './results.js'

/**
 * Compares our API with what could be and with its peers: `npm run bench`, in all or by the names
 * of groups, such as `npm run bench -- memory sqlite`. With `--quick` in a minute, where no groups
 * are named, and nothing is kept. Fails where an answer is wrong, not where a target is missed.
 */

const {
  values: { quick },
  positionals: wanted
} = parseArgs({ allowPositionals: true, options: { quick: { type: 'boolean', default: false } } })

const sizes = [1000, 10_000, 100_000, 1_000_000]
const extent: Extent = quick
  ? {
      rounds: 1,
      seconds: 0.5,
      warmUpSeconds: 0.8,
      memoryRows: 20_000,
      storedRows: 2000,
      residentRequests: 20_000,
      starts: 1,
      sequentialCalls: 300,
      sizes: { sizes: [1000, 5000], rounds: 1, seconds: 1, requests: 2000 },
      storageSizes: { sizes: [1000, 5000], rounds: 3, callsPerRound: 21 }
    }
  : {
      rounds: 21,
      seconds: 1,
      warmUpSeconds: 2,
      memoryRows: 1_000_000,
      storedRows: 20_000,
      residentRequests: 1_000_000,
      starts: 9,
      sequentialCalls: 3000,
      sizes: { sizes, rounds: 5, seconds: 1, requests: 20_000 },
      storageSizes: { sizes, rounds: 11, callsPerRound: 251 }
    }

const unknown = wanted.find((name) => !groups.some((group) => group.name === name))
if (unknown) throw new Error(`There is no group ${unknown}: ${groups.map(({ name }) => name)}`)

// Each program that a group starts ends with this one, and is listened for.
process.setMaxListeners(50)
process.stdout.write(`${machine()}\n`)
for (const group of groups) {
  const { name, title, long } = group
  if (wanted.length > 0 ? !wanted.includes(name) : quick && long) continue
  const rows = await group.run(extent)
  const date = new Date().toISOString()
  if (!quick) await keep({ group: name, title, date, machine: machine(), quick, rows })
  process.stdout.write(`\n${title}\n`)
  for (const row of rows) {
    const { what, beside, ratio, note } = row
    const verdict = row.reach ? `${formatReach(row)}: ${isReached(row) ? 'reached' : 'MISSED'}` : ''
    const spread = `${format(ratio.median)} (${format(ratio.low)} to ${format(ratio.high)})`
    const figures = [row.ours, row.peer].map(
      (side) => side && `${side.rate.toFixed(0)}/s ${side.cpu?.toFixed(0) ?? '-'} µs`
    )
    process.stdout.write(
      `  ${what}, beside ${beside}: ${spread} ${verdict} ${figures.filter(Boolean).join(' | ')} ${note ?? ''}\n`
    )
    if (row.profile) process.stdout.write(`    ${formatProfile(row.profile, 8)}\n`)
  }
}
