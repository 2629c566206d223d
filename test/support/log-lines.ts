import { Writable } from 'node:stream'

/** Where a logger may write to, and what it wrote, line by line. */
export function logLines(): { readonly stream: Writable; readonly lines: string[] } {
  const lines: string[] = []
  const stream = new Writable({
    write(line, _encoding, done) {
      lines.push(String(line))
      done()
    }
  })
  return { stream, lines }
}
