import { SerializerSelector } from '@fastify/fast-json-stringify-compiler'
import type { FastifyServerOptions } from 'fastify'

type BuildSerializer = NonNullable<
  NonNullable<
    NonNullable<FastifyServerOptions['schemaController']>['compilersFactory']
  >['buildSerializer']
>
type Schemas = Readonly<Record<string, object>>

const buildCompiler = SerializerSelector()
/** By all that decides what is compiled. Schemas are declared in code, so there are few. */
const compiled = new Map<string, (value: unknown) => string>()

/**
 * Compiles each schema once, however many routes and apps answer by it: some four hundred answers
 * of ours share a few dozen. A compilation checks every shared schema that it is given, so it is
 * given those alone that the schema refers to.
 */
export const buildSerializer = ((shared: Schemas, options: object) => (route: Answer) => {
  const referred = referredBy(route.schema, shared)
  const identity = JSON.stringify([route.schema, referred, options])
  let serialize = compiled.get(identity)
  if (!serialize) {
    serialize = buildCompiler(referred, options)(route)
    compiled.set(identity, serialize)
  }
  return serialize
}) as unknown as BuildSerializer

type Answer = Parameters<ReturnType<typeof buildCompiler>>[0]

/** The shared schemas that a schema names, and those that they name in turn. */
function referredBy(schema: unknown, shared: Schemas): Schemas {
  const found: Record<string, object> = {}
  visit(schema)
  return found

  function visit(part: unknown): void {
    if (typeof part !== 'object' || part === null) return
    for (const [key, value] of Object.entries(part)) {
      if (key === '$ref' && typeof value === 'string') add(value.split('#')[0] as string)
      else visit(value)
    }
  }

  function add(name: string): void {
    const schema = shared[name]
    if (!schema || name in found) return
    found[name] = schema
    visit(schema)
  }
}
