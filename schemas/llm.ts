import { type Static, type TSchema, Type } from '@sinclair/typebox'
import { Nullable, Uuid, withoutExamples } from './fields.js'
import { patterns } from './patterns.js'
import { Problem } from './problem.js'
import { object } from './resource.js'

/** What the LLM routes take and answer. */

const prompt = Type.String({
  minLength: 1,
  pattern: patterns.notBlank,
  description: 'What the model is asked.',
  examples: ['Write a greeting for a new customer.']
})
const model = Type.String({
  maxLength: 128,
  pattern: patterns.modelName,
  description: "A model of the provider; the provider's default when absent.",
  examples: ['gpt-4o-mini']
})
const temperature = Type.Number({
  minimum: 0,
  maximum: 2,
  description: "How much the answer varies; the provider's default when absent.",
  examples: [0.7]
})
const maxTokens = Type.Integer({
  minimum: 1,
  maximum: 1_000_000,
  description: 'Longest answer, in tokens.',
  examples: [500]
})
const system = Type.String({
  minLength: 1,
  description: "Instructions that stand before the prompt; the server's own when absent.",
  examples: ['Answer in one sentence.']
})
const provider = Type.String({
  minLength: 1,
  maxLength: 64,
  default: 'openai',
  description: 'One of the providers that the server is configured with.',
  examples: ['openai']
})

const request = {
  prompt,
  model: Type.Optional(model),
  temperature: Type.Optional(temperature),
  maxTokens: Type.Optional(maxTokens),
  system: Type.Optional(system),
  provider: Type.Optional(provider)
}

/** The body of POST /llm/stream. */
export const LlmStreamRequest = object('LlmStreamRequest', request)

/** The query of GET /llm/stream. */
export const LlmStreamQuery = Type.Object(
  Object.fromEntries(
    Object.entries(request).map(([name, schema]) => [name, withoutExamples(schema as TSchema)])
  ) as typeof request,
  { additionalProperties: false }
)

/** The body of POST /llm/complete. */
export const LlmRequest = object('LlmRequest', {
  ...request,
  useCache: Type.Optional(
    Type.Boolean({
      default: true,
      description: 'Whether an earlier answer will do, where the server has a cache.',
      examples: [true]
    })
  )
})
export type LlmRequest = Static<typeof LlmRequest>

const count = (example: number) => Type.Integer({ minimum: 0, examples: [example] })

export const LlmTokens = object('LlmTokens', {
  prompt_tokens: count(12),
  completion_tokens: count(30),
  total_tokens: count(42)
})
export type LlmTokens = Static<typeof LlmTokens>

const usage = Nullable(
  Type.Unsafe<LlmTokens>(
    Type.Ref(LlmTokens.$id, {
      description: 'What the provider counted; null where it does not.',
      examples: LlmTokens.examples as unknown[]
    })
  )
)
/** Longest reason that is passed on, in characters. */
export const MOST_FINISH_REASON = 64
/** Those that are documented. A provider may have others. */
export const finishReasons: readonly string[] = ['stop', 'length', 'content_filter', 'refusal']

const finishReason = Nullable(
  Type.String({
    maxLength: MOST_FINISH_REASON,
    description:
      "How the answer ended, in the provider's own word. `stop`: it is whole. `length`: it was cut " +
      "off, at `maxTokens` or at the model's own limit; ask with a larger `maxTokens`, or for less. " +
      '`content_filter`: the provider left out all or a part of it; change the prompt. `refusal`: ' +
      'the model declines, and `content` is what it says instead; told also where the provider marks ' +
      'a refusal and says `stop`. Providers may have other words; null where they give none.',
    examples: finishReasons
  })
)
const answer = {
  content: Type.String({ examples: ['Welcome! It is good to have you here.'] }),
  model: Type.String({ description: 'The model that answered.', examples: ['gpt-4o-mini'] }),
  created: Type.Integer({
    description: 'When, in seconds since 1970, as the provider says.',
    examples: [1_769_851_800]
  }),
  usage,
  finish_reason: finishReason
}

export const LlmCompletion = object('LlmCompletion', answer)
export type LlmCompletion = Static<typeof LlmCompletion>

/** The data of a stream's events, but for the last. */
export const LlmDelta = object('LlmDelta', {
  delta: Type.String({ description: 'A piece of the answer.', examples: ['Wel'] })
})
export type LlmDelta = Static<typeof LlmDelta>

/** The data of a stream's last event. */
export const LlmDone = object('LlmDone', {
  done: Type.Literal(true, { examples: [true] }),
  ...answer
})
export type LlmDone = Static<typeof LlmDone>

/** The data of the event `error`: a problem, with what would be in a header of its answer. */
export const LlmStreamProblem = object(
  'LlmStreamProblem',
  {
    ...Problem.properties,
    retry_after: Type.Optional(
      Type.Integer({ minimum: 0, description: 'Seconds, as in Retry-After.', examples: [17] })
    )
  },
  {
    description: 'What failed after the headers were sent.',
    examples: [
      {
        type: 'urn:problem:provider_rate_limited',
        title: 'LLM provider busy',
        status: 429,
        detail: 'The provider openai limits our calls. Try again later.',
        code: 'provider_rate_limited',
        request_id: '019b76da-a800-7000-8000-000000000009',
        retry_after: 17
      }
    ]
  }
)
export type LlmStreamProblem = Static<typeof LlmStreamProblem>

/** A stream of events, as the OpenAPI document describes it. */
export const LlmEvents = Type.String({
  description:
    'Server-Sent Events. `data` is an LlmDelta for each piece of the answer and, in the end, an ' +
    'LlmDone. What fails after the headers is an event named `error` whose data is an ' +
    'LlmStreamProblem. Comments (`: ping`) say that the stream is alive.',
  // Of the data of each event. OpenAPI 3.2 has `itemSchema` for it; generators take it from here.
  contentMediaType: 'text/event-stream',
  contentSchema: Type.Union([
    Type.Ref(LlmDelta.$id),
    Type.Ref(LlmDone.$id),
    Type.Ref(LlmStreamProblem.$id)
  ]),
  examples: [
    'data: {"delta":"Wel"}\n\ndata: {"delta":"come!"}\n\n' +
      'data: {"done":true,"content":"Welcome!","model":"gpt-4o-mini","created":1769851800,"usage":null,' +
      '"finish_reason":"stop"}\n\n'
  ]
})

/** Longest period of one report, in days. */
export const MOST_USAGE_DAYS = 366

const day = (description: string) => Type.String({ pattern: patterns.day, description })

export const LlmUsageQuery = Type.Object(
  {
    since: Type.Optional(
      day(
        `First day, in UTC, at most ${MOST_USAGE_DAYS} days before \`until\`; 30 days before it when absent.`
      )
    ),
    until: Type.Optional(day('Last day, in UTC; today when absent.')),
    user_id: Type.Optional({
      ...withoutExamples(Uuid()),
      description: 'Only calls of this user, or API key.'
    }),
    model: Type.Optional({ ...withoutExamples(model), description: 'Only calls of this model.' })
  },
  { additionalProperties: false }
)

/** What one user, or API key, asked of one model on one day. */
export const LlmUsageTotal = object('LlmUsageTotal', {
  day: { ...day('In UTC.'), examples: ['2026-01-31'] },
  model: Type.String({ examples: ['gpt-4o-mini'] }),
  user_id: { ...Uuid(), description: 'The user, or the API key, that asked.' },
  calls: count(17),
  errors: count(1),
  prompt_tokens: count(204),
  completion_tokens: count(510)
})
export type LlmUsageTotal = Static<typeof LlmUsageTotal>
