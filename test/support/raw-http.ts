import { connect } from 'node:net'

/** An answer as it came over the wire. */
export interface RawAnswer {
  readonly statusCode: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
  json(): Record<string, unknown>
}

/** Sends bytes and returns all answers that come back until the server closes. */
export async function exchangeRaw(
  port: number,
  request: string | Buffer,
  { halfClose = true } = {}
): Promise<RawAnswer[]> {
  const socket = connect(port, '127.0.0.1')
  // What arrived before a reset is what counts.
  socket.on('error', () => {})
  if (halfClose) socket.end(request)
  else socket.write(request)
  const chunks: Buffer[] = []
  try {
    for await (const chunk of socket) chunks.push(chunk)
  } catch {}
  return readAnswers(Buffer.concat(chunks))
}

/** @throws where the bytes are not whole answers, one after the other. */
function readAnswers(bytes: Buffer): RawAnswer[] {
  const answers: RawAnswer[] = []
  let rest = bytes
  while (rest.length > 0) {
    const end = rest.indexOf('\r\n\r\n')
    const [statusLine = '', ...lines] = rest.subarray(0, Math.max(end, 0)).toString().split('\r\n')
    const [, status] = /^HTTP\/1\.1 (\d{3}) /.exec(statusLine) ?? []
    if (status === undefined) throw new Error(`This is no answer: ${rest.toString().slice(0, 300)}`)
    const headers = Object.fromEntries(
      lines.map((line): [string, string] => {
        const colon = line.indexOf(':')
        return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()]
      })
    )
    const start = end + 4
    const length = Number(headers['content-length'] ?? 0)
    const body = rest.subarray(start, start + length).toString()
    answers.push({ statusCode: Number(status), headers, body, json: () => JSON.parse(body) })
    rest = rest.subarray(start + length)
  }
  return answers
}
