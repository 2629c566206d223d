import type { LlmProviders } from '../../schemas/environment.js'
import type { LlmProvider } from './port.js'

/** Everything that a provider is, so that another one is configuration and not code. */
export type ProviderSettings = Readonly<LlmProviders[number]>

export interface ProviderTimeouts {
  /** Longest wait for a whole answer, or for the first piece of a streamed one, in milliseconds. */
  readonly answerMs: number
  /** Longest silence between two pieces, in milliseconds. */
  readonly silenceMs: number
}

/** Without a provider, nothing is loaded. */
export async function openProviders(
  settings: readonly ProviderSettings[],
  timeouts: ProviderTimeouts
): Promise<readonly LlmProvider[]> {
  if (settings.length === 0) return []
  const { openOpenAi } = await import('./openai.js')
  return settings.map((each) => openOpenAi(each, timeouts))
}
