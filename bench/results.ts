import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { cpus, loadavg } from 'node:os'
import { fileURLToPath } from 'node:url'
import type { Figures, Spread } from './compare.js'
import { plotOf } from './plot.js'
import type { Profile } from './profile.js'

/** A line of the table: what was compared, what came out and what was to be reached. */
export interface Row {
  readonly what: string
  readonly beside: string
  /** How many times the peer's figure ours is. */
  readonly ratio: Spread
  readonly reach: { readonly least?: number; readonly most?: number } | null
  readonly ours?: Figures
  readonly peer?: Figures
  readonly note?: string
  /** Where a target is missed. */
  readonly profile?: Profile
}

export interface GroupResult {
  readonly group: string
  readonly title: string
  readonly date: string
  readonly machine: string
  readonly quick: boolean
  readonly rows: readonly Row[]
}

const folder = fileURLToPath(new URL('./results/', import.meta.url))
const readme = fileURLToPath(new URL('../README.md', import.meta.url))

/** With how busy it was in the last five minutes: above its cores, others slow one side or both. */
export function machine(): string {
  const model = (cpus()[0]?.model ?? 'unknown processor').replace(/\s+/g, ' ').trim()
  const [, load = 0] = loadavg()
  return `${cpus().length} cores of ${model}, Node ${process.version}, load average ${load.toFixed(0)}`
}

/** Keeps what a group found, and writes the tables and the plot anew. */
export async function keep(result: GroupResult): Promise<void> {
  await mkdir(folder, { recursive: true })
  await writeFile(`${folder}${result.group}.json`, `${JSON.stringify(result, null, 2)}\n`)
  await writeFile(`${folder}${result.group}.svg`, plotOf(result))
  const files = (await readdir(folder)).filter((name) => name.endsWith('.json')).sort()
  const texts = await Promise.all(files.map((name) => readFile(`${folder}${name}`, 'utf8')))
  const results = texts.map((text): GroupResult => JSON.parse(text))
  await writeFile(`${folder}README.md`, describe(results))
  await writeFile(readme, withSummary(await readFile(readme, 'utf8'), results))
}

/** The README between its two marks: what was compared with a peer and had something to reach. */
function withSummary(text: string, results: readonly GroupResult[]): string {
  const shown = results
    .map((result) => ({ ...result, rows: result.rows.filter(({ ours, reach }) => ours && reach) }))
    .filter(({ rows }) => rows.length > 0)
  const lines = shown
    .flatMap(({ rows }) => rows)
    .map((row) => {
      const cpu = pair(row.ours?.cpu, row.peer?.cpu, 0)
      const ratio = isReached(row) ? format(row.ratio.median) : `**${format(row.ratio.median)}**`
      return `| ${[row.what, row.beside, ratio, formatReach(row), cpu].join(' | ')} |`
    })
  const origins = new Map<string, string[]>()
  for (const { title, date, machine } of shown) {
    const origin = `${date.slice(0, 10)}, ${machine.replace(/, load.*/, '')}`
    origins.set(origin, [...(origins.get(origin) ?? []), title])
  }
  const summary = `| what | beside | times the peer's rate | to reach | processor time, µs |
| --- | --- | ---: | ---: | ---: |
${lines.join('\n')}

${[...origins].map(([origin, titles]) => `${titles.join(', ')}: ${origin}.`).join('\n')}
`
  const [begin, end] = ['<!-- bench -->\n', '<!-- /bench -->']
  const [before, rest] = text.split(begin)
  const [, after] = rest?.split(end) ?? []
  if (after === undefined) throw new Error(`${readme} has no ${begin.trim()} and ${end}`)
  return [before, begin, summary, end, after].join('')
}

export function isReached({ ratio, reach }: Row): boolean {
  const { least = 0, most = Number.POSITIVE_INFINITY } = reach ?? {}
  return ratio.median >= least && ratio.median <= most
}

export function formatReach({ reach }: Row): string {
  if (!reach) return ''
  return reach.least === undefined ? `at most ${reach.most}` : `at least ${reach.least}`
}

function describe(results: readonly GroupResult[]): string {
  return `# Results

Written by \`npm run bench\`. A ratio is ours to the peer's: the median of the rounds, and in
brackets where the middle half of them lies. The two sides took turns. Processor time is that of the
server's process; where the machine was shared it says more than the ratio. Requests a second count
with 50 callers.
${results.map(describeGroup).join('')}`
}

function describeGroup({ group, title, date, machine, quick, rows }: GroupResult): string {
  const lines = rows.map((row) => {
    const { what, beside, ratio, ours, peer, note } = row
    const verdict = row.reach ? (isReached(row) ? 'reached' : '**missed**') : ''
    const cells = [
      what,
      beside,
      `${format(ratio.median)} (${format(ratio.low)} to ${format(ratio.high)})`,
      formatReach(row),
      verdict,
      pair(ours?.rate, peer?.rate, 0),
      pair(ours?.p99, peer?.p99, 0),
      pair(ours?.cpu, peer?.cpu, 0),
      note ?? ''
    ]
    return `| ${cells.join(' | ')} |`
  })
  return `
## ${title}

${date.slice(0, 10)}, ${machine}${quick ? ', a quick run' : ''}

| what | beside | ratio | to reach | | requests/s | p99 ms | processor µs | |
| --- | --- | ---: | ---: | --- | ---: | ---: | ---: | --- |
${lines.join('\n')}

![${title}](${group}.svg)
${rows.map(describeProfile).join('')}`
}

function describeProfile({ what, beside, profile }: Row): string {
  if (!profile) return ''
  return `
Where ${profile.of} goes in "${what}" (beside: ${beside}), which is missed: ${formatProfile(profile)}.
`
}

/** With the largest shares alone, where a number of them is given. */
export function formatProfile({ shares }: Profile, most = shares.length): string {
  return shares
    .slice(0, most)
    .map(({ part, share }) => `${part} ${(share * 100).toFixed(0)} %`)
    .join(', ')
}

function pair(a: number | null | undefined, b: number | null | undefined, digits: number): string {
  if (a === null || a === undefined || b === null || b === undefined) return ''
  return `${a.toFixed(digits)} / ${b.toFixed(digits)}`
}

export function format(ratio: number): string {
  return ratio >= 100 ? ratio.toFixed(0) : ratio >= 10 ? ratio.toFixed(1) : ratio.toFixed(2)
}
