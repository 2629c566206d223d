import type { TSchema } from '@sinclair/typebox'
import { patterns } from '../../schemas/patterns.js'
import type { AnyResource, PlainOperation } from '../../schemas/resource.js'
import { plainResources } from '../../src/routes/every-resource.js'
import { pluralOf } from '../../src/words.js'
import type { Send } from './api.js'

/**
 * What tests of every route need of a resource whose routes are plain: it follows from the
 * declaration, so that a new one needs no line in them.
 */

/** Names of fields, and values of them. */
export type Body = Readonly<Record<string, unknown>>

/**
 * The example of its declaration, without what would have to be there first.
 * @param given the key, where clients have to give one
 */
export function sampleBody({ create, references, key, keys }: AnyResource, given?: string): Body {
  const [example] = create.examples as [Body]
  const held = new Set(references.map(({ field }) => field))
  const body = Object.fromEntries(Object.entries(example).filter(([name]) => !held.has(name)))
  return given !== undefined && keys === 'given' ? { ...body, [key]: given } : body
}

/** The same as a PUT has it, whose address names the row. */
export function sampleReplacement(resource: AnyResource): Body {
  const { [resource.key]: _, ...body } = sampleBody(resource)
  return body
}

/** A value of one field that is not the sample's. */
export function sampleChange({ name, update }: AnyResource): Body {
  for (const [field, schema] of Object.entries(update.properties)) {
    const value = otherThanExample(schema)
    if (value !== undefined) return { [field]: value }
  }
  throw new Error(`Of no field of ${name} another value than the example is known`)
}

function otherThanExample(schema: TSchema): unknown {
  const [example] = (schema.examples ?? []) as unknown[]
  const choices = schema.enum as unknown[] | undefined
  if (choices) return choices.find((choice) => choice !== example)
  if (schema.type === 'boolean') return !example
  return takesAnyText(schema) ? 'Another' : undefined
}

function takesAnyText({ type, format, pattern, enum: choices }: TSchema): boolean {
  return type === 'string' && !format && !choices && (!pattern || pattern === patterns.notBlank)
}

/** A key that no row has. */
export function absentKey({ keys }: AnyResource): string {
  return keys === 'uuid' ? '019b76da-a800-7000-8000-00000000dead' : 'absent'
}

/**
 * Stores a sample of each, and gives their keys by the names of the resources.
 * @param text of every field that takes any, so that it can be told whose the rows are.
 */
export async function storeSamples(
  send: Send,
  text?: string
): Promise<Readonly<Record<string, string>>> {
  const stored: Record<string, string> = {}
  for (const resource of plainResources) {
    if (!resource.access?.operations.includes('create')) continue
    const body = { ...sampleBody(resource), ...(text ? textsOf(resource, text) : {}) }
    const answer = await send('POST', `/${resource.path}`, body)
    stored[resource.name] = (body[resource.key] ?? answer.json()[resource.key]) as string
  }
  return stored
}

function textsOf({ create }: AnyResource, text: string): Body {
  const fields = Object.entries(create.properties).filter(([, schema]) => takesAnyText(schema))
  return Object.fromEntries(fields.map(([name]) => [name, text]))
}

/** As the document names it. */
export function operationIdOf({ view }: AnyResource, operation: PlainOperation): string {
  return operation + (operation === 'list' ? pluralOf(view.$id) : view.$id)
}
