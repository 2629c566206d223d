import { pathToFileURL } from 'node:url'
import type { TSchema } from '@sinclair/typebox'
import { Environment } from '../../schemas/environment.js'

const WIDTH = 96

/** `.env.example` as it follows from the declared variables; defaults stand as comments. */
export function environmentExample(): string {
  const blocks = Object.entries<TSchema>(Environment.properties).map(([name, schema]) => {
    const choices = schema.enum ? ` One of ${(schema.enum as string[]).join(', ')}.` : ''
    const comment = wrap(`${schema.description}${choices}`).map((line) => `# ${line}`)
    return [...comment, `# ${name}=${schema.default ?? ''}`].join('\n')
  })
  const head = [
    '# Copy to .env (or .env.local, which comes first) and take the # from what you set.',
    '# What the environment already has wins. `npm run env:example` writes this file.'
  ].join('\n')
  return `${[head, ...blocks].join('\n\n')}\n`
}

function wrap(text: string): string[] {
  const lines: string[] = []
  for (const word of text.split(' ')) {
    const last = lines.at(-1)
    if (last === undefined || last.length + word.length >= WIDTH) lines.push(word)
    else lines[lines.length - 1] = `${last} ${word}`
  }
  return lines
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href)
  process.stdout.write(environmentExample())
