import OpenAI, { APIConnectionTimeoutError, APIError } from 'openai'
import type {
  ChatCompletion,
  ChatCompletionCreateParams,
  ChatCompletionMessageParam
} from 'openai/resources/chat/completions'
import { MOST_FINISH_REASON } from '../../schemas/llm.js'
import { createKeepAliveFetch } from '../keep-alive-fetch.js'
import {
  type Completion,
  LlmError,
  type LlmProvider,
  type Part,
  type Prompt,
  type TokenCounts
} from './port.js'
import type { ProviderSettings, ProviderTimeouts } from './registry.js'

/** What an answer may take up in memory, in characters: a streamed one is kept whole, too. */
const MOST_TEXT = 16 * 1024 * 1024
/** What a piece of it may, in bytes: the package searches all it has of one whenever more of it comes. */
const MOST_EVENT = 1024 * 1024
/** What breaks later has been at work on the prompt, which costs what it costs. */
const RESEND_MS = 2000

/** OpenAI, or any server that speaks its chat completions, through the official package. */
export function openOpenAi(
  { name, url, key, model }: ProviderSettings,
  timeouts: ProviderTimeouts
): LlmProvider {
  const connections = createKeepAliveFetch(url, {
    resendMs: RESEND_MS,
    mostText: MOST_TEXT,
    mostEvent: MOST_EVENT
  })
  const client = new OpenAI({
    apiKey: key,
    baseURL: url,
    // What the package would take from the environment, and send to every provider alike.
    organization: null,
    project: null,
    fetch: connections.fetch,
    // A caller learns of a failure at once, with Retry-After, and can decide better.
    maxRetries: 0,
    // The timers below are shorter: they also cover what comes after the headers.
    timeout: 2 ** 31 - 1,
    // It would write what it cannot parse to the console.
    logLevel: 'off'
  })
  const isOpenAi = /(^|\.)openai\.com$/.test(new URL(url).hostname)

  function bodyOf(prompt: Prompt): Omit<ChatCompletionCreateParams, 'stream'> {
    const { model, system, temperature, maxTokens } = prompt
    const messages: ChatCompletionMessageParam[] = [{ role: 'user', content: prompt.prompt }]
    if (system !== undefined) messages.unshift({ role: 'system', content: system })
    return {
      model,
      messages,
      ...(temperature === undefined ? {} : { temperature }),
      // OpenAI's newer models refuse the old name, and other servers do not know the new one.
      ...(maxTokens === undefined
        ? {}
        : { [isOpenAi ? 'max_completion_tokens' : 'max_tokens']: maxTokens })
    }
  }

  return {
    name,
    defaultModel: model,

    async complete(prompt, signal) {
      const wait = startWaiting(signal, timeouts.answerMs)
      try {
        const body = { ...bodyOf(prompt), stream: false as const }
        const answer = await client.chat.completions.create(body, { signal: wait.signal })
        return completionOf(answer, prompt)
      } catch (error) {
        throw wait.explain(error)
      } finally {
        wait.end()
      }
    },

    async *stream(prompt, signal): AsyncGenerator<Part> {
      const wait = startWaiting(signal, timeouts.answerMs)
      try {
        const body = {
          ...bodyOf(prompt),
          stream: true as const,
          stream_options: { include_usage: true }
        }
        const chunks = await client.chat.completions.create(body, { signal: wait.signal })
        const end = { model: prompt.model, created: 0, usage: null as TokenCounts | null }
        let reason: unknown
        let refused = false
        let length = 0
        for await (const { choices, model, created, usage } of chunks) {
          end.model = modelOf(model) ?? end.model
          if (Number.isInteger(created)) end.created = created
          if (usage) end.usage = tokenCounts(usage)
          const [choice] = choices ?? []
          reason = choice?.finish_reason || reason
          refused ||= isRefusal(choice?.delta)
          const delta = textOf(choice?.delta)
          length += delta.length
          if (length > MOST_TEXT) throw new LlmError('failed')
          // What has no text is no piece, and ends no wait for one.
          if (!delta) continue
          wait.pause()
          yield { delta }
          wait.resume(timeouts.silenceMs)
        }
        // The package ends an aborted stream, and one that breaks off, as if it were complete.
        if (!reason) throw new LlmError('failed')
        yield { end: { ...end, finish_reason: finishReasonOf(reason, refused) } }
      } catch (error) {
        throw wait.explain(error)
      } finally {
        wait.end()
      }
    },

    close: connections.close
  }
}

/** Bounds a call by the caller's signal and by time, and tells which of them ended it. */
function startWaiting(callers: AbortSignal, milliseconds: number) {
  const controller = new AbortController()
  const leave = () => controller.abort()
  const giveUp = () => {
    timedOut = true
    controller.abort()
  }
  let timedOut = false
  let timer = setTimeout(giveUp, milliseconds)
  if (callers.aborted) leave()
  else callers.addEventListener('abort', leave, { once: true })

  return {
    signal: controller.signal,
    /** While the caller is busy with a piece, silence is not the provider's. */
    pause: () => clearTimeout(timer),
    resume(milliseconds: number) {
      timer = setTimeout(giveUp, milliseconds)
    },
    explain(error: unknown): LlmError {
      if (callers.aborted) return new LlmError('cancelled')
      if (timedOut) return new LlmError('timeout')
      return toLlmError(error)
    },
    end() {
      clearTimeout(timer)
      callers.removeEventListener('abort', leave)
    }
  }
}

function completionOf(answer: ChatCompletion, prompt: Prompt): Completion {
  // Whatever a server sends as JSON, or as anything else, comes through unchecked.
  const choice = (answer as Partial<ChatCompletion> | undefined)?.choices?.[0]
  if (!choice?.message) throw new LlmError('failed')
  return {
    content: textOf(choice.message),
    model: modelOf(answer.model) ?? prompt.model,
    created: Number.isInteger(answer.created) ? answer.created : 0,
    usage: answer.usage ? tokenCounts(answer.usage) : null,
    finish_reason: finishReasonOf(choice.finish_reason, isRefusal(choice.message))
  }
}

interface Said {
  readonly content?: unknown
  readonly refusal?: unknown
}

/** @throws LlmError `failed` for what is no text, which nobody behind this could read. */
function textOf(said: Said | null | undefined): string {
  const text = said?.content || said?.refusal || ''
  if (typeof text !== 'string') throw new LlmError('failed')
  return text
}

/** Whether the text is one. */
function isRefusal(said: Said | null | undefined): boolean {
  return !said?.content && Boolean(said?.refusal)
}

/** OpenAI ends a refusal with `stop`, as it does a whole answer. */
function finishReasonOf(reason: unknown, refused: boolean): string | null {
  const isWord = typeof reason === 'string' && reason !== '' && reason.length <= MOST_FINISH_REASON
  const word = isWord ? reason : null
  const saysMore = word !== null && word !== 'stop'
  return refused && !saysMore ? 'refusal' : word
}

function modelOf(name: unknown): string | undefined {
  return typeof name === 'string' && name !== '' ? name : undefined
}

function tokenCounts(counts: Partial<TokenCounts>): TokenCounts {
  const prompt_tokens = countOf(counts.prompt_tokens) ?? 0
  const completion_tokens = countOf(counts.completion_tokens) ?? 0
  const total_tokens = countOf(counts.total_tokens) ?? prompt_tokens + completion_tokens
  return { prompt_tokens, completion_tokens, total_tokens }
}

/** No storage keeps half a token, and a total with one in it would be lost. */
function countOf(count: unknown): number | undefined {
  return Number.isSafeInteger(count) && (count as number) >= 0 ? (count as number) : undefined
}

function toLlmError(error: unknown): LlmError {
  if (error instanceof LlmError) return error
  if (error instanceof APIConnectionTimeoutError) return new LlmError('timeout')
  if (!(error instanceof APIError)) return new LlmError('failed')
  const { status } = error as APIError<number | undefined>
  if (status === undefined) {
    // The cause is the operating system's: an address and what was wrong with it.
    return error.cause && !isUnreadable(error.cause)
      ? new LlmError('unreachable', { cause: error.cause })
      : new LlmError('failed', { reason: knownReason(error) })
  }
  const about = { status, reason: knownReason(error), retryAfter: retryAfterOf(error) }
  if (status === 401 || status === 403) return new LlmError('credentials_refused', about)
  if (status === 429) return new LlmError('rate_limited', about)
  if (status === 408 || status === 504) return new LlmError('timeout', about)
  // A 404 without an error object is not of a model but of the address: no fault of the caller's.
  const refused = [400, 409, 413, 422].includes(status) || (status === 404 && error.error)
  return new LlmError(refused ? 'refused' : 'failed', about)
}

/** What Node's parser of HTTP says: somebody was there, and did not answer in HTTP. */
function isUnreadable(cause: unknown): boolean {
  return `${(cause as NodeJS.ErrnoException).code}`.startsWith('HPE_')
}

/** The reasons that callers may be told: no other text of a provider is passed on. */
const knownReasons = [
  'context_length_exceeded',
  'string_above_max_length',
  'model_not_found',
  'content_filter',
  'content_policy_violation',
  'invalid_prompt',
  'unsupported_parameter',
  'unsupported_value',
  'insufficient_quota',
  'rate_limit_exceeded'
]

function knownReason({ code, type }: APIError): string | undefined {
  return knownReasons.find((reason) => reason === code || reason === type)
}

/** Retry-After, which is seconds or a date. Some send parts of a second, which no standard knows. */
function retryAfterOf({ headers }: APIError): number | undefined {
  const value = headers?.get('retry-after') ?? ''
  const seconds = /^\d+(\.\d+)?$/.test(value)
    ? Number(value)
    : (Date.parse(value) - Date.now()) / 1000
  return Number.isFinite(seconds) ? Math.max(0, Math.ceil(seconds)) : undefined
}
