import { format, type GroupResult, isReached, type Row } from './results.js'

const WIDTH = 760
const LABELS = 330
const LINE = 30
const TOP = 44

/** A bar for each ratio, whiskers for the middle half of the rounds, a mark for what to reach. */
export function plotOf({ title, rows, date }: GroupResult): string {
  const most = Math.max(...rows.flatMap((row) => [row.ratio.high, markOf(row) ?? 0, 1])) * 1.12
  const x = (ratio: number) => LABELS + (ratio / most) * (WIDTH - LABELS - 60)
  const bars = rows.map((row, index) => drawRow(row, TOP + index * LINE, x))
  const height = TOP + rows.length * LINE + 16
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" font-family="system-ui, sans-serif" font-size="12">
<title>${escapeXml(title)}, ours to the peer's</title>
<rect width="${WIDTH}" height="${height}" fill="#fff"/>
<text x="12" y="22" font-size="14" font-weight="600">${escapeXml(title)}</text>
<text x="${WIDTH - 12}" y="22" text-anchor="end" fill="#666">ours to the peer's, ${date.slice(0, 10)}</text>
${bars.join('\n')}
</svg>
`
}

function drawRow(row: Row, top: number, x: (ratio: number) => number): string {
  const { median, low, high } = row.ratio
  const middle = top + LINE / 2
  const color = !row.reach ? '#8a94a6' : isReached(row) ? '#2f855a' : '#c05621'
  const mark = markOf(row)
  const parts = [
    `<text x="${LABELS - 10}" y="${middle - 2}" text-anchor="end">${escapeXml(row.what)}</text>`,
    `<text x="${LABELS - 10}" y="${middle + 10}" text-anchor="end" fill="#666" font-size="10">beside ${escapeXml(row.beside)}</text>`,
    bar(LABELS, middle - 7, x(median) - LABELS, color),
    line(x(low), middle, x(high), middle, '#1a202c'),
    `<text x="${(Math.max(x(high), x(mark ?? 0)) + 6).toFixed(1)}" y="${middle + 4}">${format(median)}</text>`
  ]
  if (mark !== undefined) parts.push(line(x(mark), middle - 11, x(mark), middle + 11, '#1a202c'))
  return parts.join('\n')
}

function markOf({ reach }: Row): number | undefined {
  return reach?.least ?? reach?.most
}

function bar(x: number, y: number, width: number, color: string): string {
  return `<rect x="${x}" y="${y}" width="${width.toFixed(1)}" height="14" rx="2" fill="${color}"/>`
}

function line(x1: number, y1: number, x2: number, y2: number, color: string): string {
  const [a, b] = [x1.toFixed(1), x2.toFixed(1)]
  return `<line x1="${a}" y1="${y1}" x2="${b}" y2="${y2}" stroke="${color}" stroke-width="2"/>`
}

function escapeXml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;')
}
