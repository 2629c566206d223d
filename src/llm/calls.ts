import type { Completion, LlmProvider, Part, Prompt, TokenCounts } from '../../adapters/llm/port.js'
import { LlmError } from '../../adapters/llm/port.js'
import type { TenantId } from '../../adapters/storage/port.js'
import {
  finishReasons,
  type LlmCompletion,
  type LlmDelta,
  type LlmDone,
  type LlmRequest
} from '../../schemas/llm.js'
import { ApiError } from '../problems.js'
import { type CompletionCache, cacheKey } from './cache.js'
import type { CallLog } from './call-log.js'
import { type Moderation, withhold } from './moderation.js'
import { toProviderProblem } from './provider-problems.js'
import { createSharing } from './sharing.js'
import type { Usage } from './usage.js'

export interface CallsOptions {
  readonly providers: readonly LlmProvider[]
  readonly systemPrompt: string | undefined
  readonly moderation: Moderation
  /** Answers of complete are kept here; without one, none are. */
  readonly cache: CompletionCache | undefined
  readonly log: CallLog
  readonly usage: Usage
}

/** On whose behalf a call is made. */
export interface CallOrigin {
  readonly tenant: TenantId
  readonly user: string
  readonly requestId: string
  readonly route: string
}

export interface Calls {
  complete(ask: LlmRequest, origin: CallOrigin, cancellation: Cancellation): Promise<Completed>
  /**
   * What can be refused at once is thrown at once; from then on, what fails the provider fails the
   * iteration.
   */
  stream(
    ask: LlmRequest,
    origin: CallOrigin,
    cancellation: Cancellation
  ): AsyncIterable<LlmDelta | LlmDone>
}

/** Ends a call early. The signal may be made as late as it is read. */
export interface Cancellation {
  readonly signal: AbortSignal
}

export interface Completed {
  readonly completion: LlmCompletion
  /** Whether it cost no call of the provider: it was kept, or somebody else had just asked. */
  readonly hit: boolean
}

/** Why a call was aborted, where it was not the caller who left. */
export const STOPPING = Symbol('the server is stopping')

type CacheUse = 'hit' | 'shared' | 'miss' | 'off'

/** An answer that several callers may have waited for. One of them counts its tokens. */
interface SharedAnswer {
  readonly completion: Completion
  counted: boolean
}

/** Asks models: with every rule, limit and record that holds for each call. */
export function createCalls(options: CallsOptions): Calls {
  const { providers, moderation, cache, log, usage } = options
  const sharing = createSharing<SharedAnswer>(() => new LlmError('cancelled'))

  function prepare(ask: LlmRequest, call: Call): { provider: LlmProvider; prompt: Prompt } {
    const provider = providerFor(ask.provider)
    const prompt = {
      model: ask.model ?? provider.defaultModel,
      prompt: ask.prompt,
      system: ask.system ?? options.systemPrompt,
      temperature: ask.temperature,
      maxTokens: ask.maxTokens
    }
    call.provider = provider.name
    call.model = prompt.model
    moderation.assertAllowed(ask)
    return { provider, prompt }
  }

  function providerFor(name = DEFAULT_PROVIDER): LlmProvider {
    const found = providers.find((each) => each.name === name)
    if (found) return found
    const known = providers.map((each) => each.name)
    if (name === DEFAULT_PROVIDER || known.length === 0)
      throw new ApiError('llm_not_configured', howToConfigure(known))
    throw new ApiError(
      'unknown_provider',
      `There is no such provider. Known are: ${known.join(', ')}.`
    )
  }

  async function completeWithCache(
    kept: CompletionCache,
    provider: LlmProvider,
    prompt: Prompt,
    call: Call,
    cancellation: Cancellation
  ): Promise<Completion> {
    const key = cacheKey(call.origin.tenant, provider.name, prompt)
    const found = kept.get(key)
    if (found) {
      call.cache = 'hit'
      return found
    }
    const { promise, joined } = sharing.join(key, cancellation.signal, async (shared) => {
      const completion = await provider.complete(prompt, shared)
      if (moderation.passes(completion.content)) kept.set(key, completion)
      return { completion, counted: false }
    })
    call.cache = joined ? 'shared' : 'miss'
    const answer = await promise
    if (!answer.counted) call.tokens = answer.completion.usage
    answer.counted = true
    return answer.completion
  }

  async function completeAnew(
    provider: LlmProvider,
    prompt: Prompt,
    call: Call,
    { signal }: Cancellation
  ): Promise<Completion> {
    const completion = await provider.complete(prompt, signal)
    call.tokens = completion.usage
    return completion
  }

  async function* pieces(
    parts: AsyncIterable<Part>,
    call: Call,
    cancellation: Cancellation
  ): AsyncGenerator<LlmDelta | LlmDone> {
    const gate = moderation.openGate()
    let content = ''
    try {
      for await (const part of parts) {
        const end = 'end' in part ? part.end : undefined
        if (end) call.tokens = end.usage
        else call.firstToken()
        const delta = end ? gate.end() : gate.push((part as { delta: string }).delta)
        if (delta) {
          content += delta
          call.answerChars = content.length
          yield { delta }
        }
        if (end) {
          call.finishReason = end.finish_reason
          yield { done: true, content, ...end }
        }
      }
      call.succeed()
    } catch (error) {
      throw call.fail(error, cancellation)
    } finally {
      // A reader who stops reading without an error has left.
      call.leave()
    }
  }

  return {
    async complete(ask, origin, cancellation) {
      const call = new Call(ask, origin, log, usage)
      try {
        const { provider, prompt } = prepare(ask, call)
        const completion =
          cache && ask.useCache !== false
            ? await completeWithCache(cache, provider, prompt, call, cancellation)
            : await completeAnew(provider, prompt, call, cancellation)
        // Kept answers too: the terms may be others by now.
        if (!moderation.passes(completion.content)) withhold()
        call.answerChars = completion.content.length
        call.finishReason = completion.finish_reason
        call.succeed()
        return { completion, hit: call.cache === 'hit' || call.cache === 'shared' }
      } catch (error) {
        throw call.fail(error, cancellation)
      }
    },

    stream(ask, origin, cancellation) {
      const call = new Call(ask, origin, log, usage)
      try {
        const { provider, prompt } = prepare(ask, call)
        return pieces(provider.stream(prompt, cancellation.signal), call, cancellation)
      } catch (error) {
        throw call.fail(error, cancellation)
      }
    }
  }
}

const DEFAULT_PROVIDER = 'openai'

function howToConfigure(known: readonly string[]): string {
  const others = known.length ? ` Or name one of: ${known.join(', ')}.` : ''
  return `The provider openai is not configured. Set OPENAI_API_KEY, and OPENAI_BASE_URL for a server other than OpenAI.${others}`
}

/** The provider's own words stay out of the log: they may be anything. */
function loggedReason(reason: string | null): string | null {
  return reason === null || finishReasons.includes(reason) ? reason : 'other'
}

/** One call from its start to the line in the log that tells of it. */
class Call {
  // As configured, and not as asked for: what a request says instead may be anything.
  provider = 'unknown'
  model = 'unknown'
  cache: CacheUse = 'off'
  /** What the provider charges for this call. */
  tokens: TokenCounts | null = null
  answerChars = 0
  finishReason: string | null = null
  readonly #begun = performance.now()
  #firstTokenMs: number | null = null
  #told = false

  constructor(
    private readonly ask: LlmRequest,
    readonly origin: CallOrigin,
    private readonly log: CallLog,
    private readonly usage: Usage
  ) {}

  firstToken(): void {
    this.#firstTokenMs ??= this.#elapsed()
  }

  succeed(): void {
    this.#tell('ok')
  }

  leave(): void {
    this.#tell('cancelled')
  }

  /** Tells of the failure and returns it as callers are told. */
  fail(error: unknown, cancellation: Cancellation): unknown {
    const cancelled = error instanceof LlmError && error.code === 'cancelled'
    if (cancelled && cancellation.signal.reason !== STOPPING) {
      this.leave()
      return error
    }
    const problem = toProviderProblem(error, this.provider)
    this.#tell(problem instanceof ApiError ? problem.code : 'internal_error')
    return problem
  }

  #tell(outcome: string): void {
    if (this.#told) return
    this.#told = true
    const { ask, origin, provider, model, tokens } = this
    this.log.write({
      time: new Date().toISOString(),
      request_id: origin.requestId,
      route: origin.route,
      tenant: origin.tenant,
      user: origin.user,
      provider,
      model,
      prompt_chars: ask.prompt.length,
      system_chars: ask.system?.length ?? 0,
      answer_chars: this.answerChars,
      prompt_tokens: tokens?.prompt_tokens ?? 0,
      completion_tokens: tokens?.completion_tokens ?? 0,
      ms: this.#elapsed(),
      first_token_ms: this.#firstTokenMs,
      finish_reason: loggedReason(this.finishReason),
      cache: this.cache,
      outcome
    })
    this.usage.add({
      tenant: origin.tenant,
      user: origin.user,
      model,
      failed: outcome !== 'ok' && outcome !== 'cancelled',
      promptTokens: tokens?.prompt_tokens ?? 0,
      completionTokens: tokens?.completion_tokens ?? 0
    })
  }

  #elapsed(): number {
    return Math.round((performance.now() - this.#begun) * 100) / 100
  }
}
