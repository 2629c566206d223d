import { LlmError, type LlmErrorCode } from '../../adapters/llm/port.js'
import { ApiError, type ProblemCode, retryAfter } from '../problems.js'

type Told = readonly [code: ProblemCode, detail: (provider: string, reason: string) => string]

/** What callers are told: a refused key is no fault of theirs, and the provider's words stay here. */
const told: Readonly<Record<LlmErrorCode, Told>> = {
  credentials_refused: [
    'provider_credentials',
    (provider) =>
      `The provider ${provider} does not accept the key of this server. Tell its operator.`
  ],
  rate_limited: [
    'provider_rate_limited',
    (provider, reason) => `The provider ${provider} limits our calls${reason}. Try again later.`
  ],
  refused: [
    'provider_refused',
    (provider, reason) => `The provider ${provider} refuses the request${reason}.`
  ],
  timeout: [
    'provider_timeout',
    (provider) => `The provider ${provider} did not answer in time. Try again.`
  ],
  unreachable: [
    'provider_unreachable',
    (provider) => `The provider ${provider} cannot be reached. Try again.`
  ],
  failed: [
    'provider_failed',
    (provider) => `The provider ${provider} failed to answer. Try again.`
  ],
  cancelled: ['unavailable', () => 'The server is stopping. Try again.']
}

/** The problem that a failed call amounts to; what is no failure of a provider stays as it is. */
export function toProviderProblem(error: unknown, provider: string): unknown {
  if (!(error instanceof LlmError)) return error
  const [code, detail] = told[error.code]
  const reason = error.reason ? ` (${error.reason})` : ''
  const seconds = secondsOf(error)
  return new ApiError(code, detail(provider, reason), {
    cause: error,
    ...(seconds === undefined ? {} : { headers: retryAfter(seconds) })
  })
}

/** Seconds after which to ask again, where they are known. */
function secondsOf({ code, retryAfter }: LlmError): number | undefined {
  if (code === 'cancelled') return 1
  return code === 'rate_limited' ? retryAfter : undefined
}
