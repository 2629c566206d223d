import { LlmError, type LlmErrorCode, type LlmProvider } from '../../adapters/llm/port.js'

/** The prompts whose calls fail, and how; `fault` is no failure that a provider knows of. */
const failures: Readonly<Record<string, () => Error>> = {
  ...Object.fromEntries(
    (['credentials_refused', 'rate_limited', 'refused', 'timeout', 'failed'] as LlmErrorCode[]).map(
      (code) => [code, () => new LlmError(code, { retryAfter: 7 })]
    )
  ),
  fault: () => new Error('secret cause')
}

const about = { created: 1, usage: null, finish_reason: 'stop' }

/** A provider that does what its prompts say, where a test is about something else than providers. */
export const scriptedProvider: LlmProvider = {
  name: 'scripted',
  defaultModel: 'scripted-model',

  async complete({ prompt, model }) {
    failAsTold(prompt)
    return { content: 'Hello!', model, ...about }
  },

  stream({ prompt, model }) {
    failAsTold(prompt)
    return (async function* () {
      yield { delta: 'Hello!' }
      yield { end: { model, ...about } }
    })()
  },

  close() {}
}

function failAsTold(prompt: string): void {
  if (Object.hasOwn(failures, prompt)) throw failures[prompt]?.()
}
