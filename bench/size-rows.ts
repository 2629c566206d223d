import { spreadOf } from './compare.js'
import type { Row } from './results.js'

/**
 * A row for each size but the first, which it is beside.
 * @param times microseconds: of each round, what each size took
 */
export function sizeRows(
  what: string,
  sizes: readonly number[],
  times: readonly (readonly number[])[]
): Row[] {
  const names = sizes.map((rows) => `of ${rows.toLocaleString('en')}`)
  const typical = sizes.map((_, index) =>
    Number(spreadOf(times.map((taken) => taken[index] as number)).median.toPrecision(3))
  )
  return sizes.slice(1).map((_, before) => {
    const index = before + 1
    return {
      what: `${what} ${names[index]}`,
      beside: names[0] as string,
      ratio: spreadOf(times.map((taken) => (taken[index] as number) / (taken[0] as number))),
      reach: { most: 1.5 },
      note: `${typical[index]} / ${typical[0]} µs`
    }
  })
}
