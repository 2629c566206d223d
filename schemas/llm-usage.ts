import { Type } from '@sinclair/typebox'
import { TextId, Timestamp, Uuid } from './fields.js'
import { defineResource } from './resource.js'

const total = (example: number) => Type.Integer({ minimum: 0, examples: [example] })

export const llmUsage = defineResource({
  name: 'llm_usage',
  singular: 'llm_usage',
  description:
    'Running totals of LLM calls. An instance of the server writes rows of its own only.',
  fields: {
    /** Made of the day, the user, the instance and the model. */
    id: TextId('2026-01-31.019b76da-a800-7000-8000-000000000001.e3b0c442'),
    /** Midnight in UTC. */
    day: Timestamp('2026-01-31T00:00:00.000Z'),
    /** The user, or the API key, that asked: it stays when they are deleted. */
    user_id: Uuid(),
    model: Type.String({ maxLength: 128, examples: ['gpt-4o-mini'] }),
    instance: Uuid(),
    calls: total(17),
    errors: total(1),
    prompt_tokens: total(204),
    completion_tokens: total(510)
  },
  key: 'id',
  keys: 'given',
  required: [
    'day',
    'user_id',
    'model',
    'instance',
    'calls',
    'errors',
    'prompt_tokens',
    'completion_tokens'
  ],
  optional: [],
  filters: ['user_id', 'model'],
  order: 'day',
  period: true,
  audited: false
})
