import type { LlmCompletion, LlmTokens } from '../../schemas/llm.js'

/** What a model is asked, complete: every default is filled in. */
export interface Prompt {
  readonly model: string
  readonly prompt: string
  readonly system: string | undefined
  readonly temperature: number | undefined
  /** Longest answer, in tokens. */
  readonly maxTokens: number | undefined
}

export type TokenCounts = Readonly<LlmTokens>
/** The model is as the provider names it, which may be longer than it was asked for. */
export type Completion = Readonly<LlmCompletion>

/** A piece of a streamed answer, or, last, what is about it. */
export type Part = { readonly delta: string } | { readonly end: Omit<Completion, 'content'> }

/**
 * Somebody who runs models. Failures are `LlmError`s. Aborting the signal ends the request at the
 * provider at once, whatever its state, and fails the call as `cancelled`.
 */
export interface LlmProvider {
  readonly name: string
  readonly defaultModel: string
  complete(prompt: Prompt, signal: AbortSignal): Promise<Completion>
  /** Reads from the provider only as fast as the parts are taken. */
  stream(prompt: Prompt, signal: AbortSignal): AsyncIterable<Part>
  /** Ends all connections, and with them the calls under way. */
  close(): void
}

export type LlmErrorCode =
  /** The provider does not accept our key. */
  | 'credentials_refused'
  | 'rate_limited'
  /** The provider finds the request itself at fault. */
  | 'refused'
  | 'timeout'
  | 'unreachable'
  /** The provider failed, or said what nobody can read. */
  | 'failed'
  /** The caller's own wish. */
  | 'cancelled'

/**
 * A call that failed. Nothing that the provider wrote is in it, for a provider may repeat what it
 * was sent, keys too.
 */
export class LlmError extends Error {
  override readonly name = 'LlmError'
  /** The provider's status, where it answered at all. */
  readonly status: number | undefined
  /** When the provider wishes to be asked again, in seconds from now. */
  readonly retryAfter: number | undefined
  /** One of a list of known reasons, such as `context_length_exceeded`. */
  readonly reason: string | undefined

  constructor(
    readonly code: LlmErrorCode,
    about: {
      readonly status?: number | undefined
      readonly retryAfter?: number | undefined
      readonly reason?: string | undefined
      readonly cause?: unknown
    } = {}
  ) {
    super(`The LLM call failed: ${code}`, { cause: about.cause })
    this.status = about.status
    this.retryAfter = about.retryAfter
    this.reason = about.reason
  }
}
