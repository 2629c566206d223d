import { reasonOf } from './reason.js'

/** Causes of a failed `fetch` that lie before the request: nothing was sent. */
const beforeSending =
  /^(ECONNREFUSED|ENOTFOUND|EAI_|EHOSTUNREACH|ENETUNREACH|UND_ERR_CONNECT|CERT_|ERR_TLS|ERR_SSL|SELF_SIGNED|DEPTH_ZERO|UNABLE_TO_)/

/** The connection broke, or the time was up. */
export class NoAnswer extends Error {
  /** Whether the other side may have got the request. */
  readonly wasSent: boolean

  constructor(cause: unknown) {
    const outer = cause as NodeJS.ErrnoException & { cause?: NodeJS.ErrnoException }
    // The built-in fetch says no more than that it failed; its cause says why.
    const inner = outer.cause ?? outer
    super(reasonOf(inner), { cause })
    this.wasSent = !beforeSending.test(inner.code ?? '')
  }
}

/** The texts in the answer to a failed request; none where it is no JSON. */
export function parseError(text: string): Partial<Record<string, string>> {
  try {
    return JSON.parse(text) ?? {}
  } catch {
    return {}
  }
}

/**
 * Sends a request and reads its answer to the end, whatever its status.
 * @throws NoAnswer
 */
export async function fetchText(
  send: typeof fetch,
  ...request: Parameters<typeof fetch>
): Promise<{ response: Response; text: string }> {
  try {
    const response = await send(...request)
    return { response, text: await response.text() }
  } catch (error) {
    throw new NoAnswer(error)
  }
}
