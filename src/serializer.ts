import { SerializerSelector } from '@fastify/fast-json-stringify-compiler'
import type { FastifyServerOptions } from 'fastify'

type BuildSerializer = NonNullable<
  NonNullable<
    NonNullable<FastifyServerOptions['schemaController']>['compilersFactory']
  >['buildSerializer']
>
type Schemas = Readonly<Record<string, object>>
type Serialize = (value: unknown) => string

const buildCompiler = SerializerSelector()
/** By all that decides what is compiled. Schemas are declared in code, so there are few. */
const compiled = new Map<string, Serialize>()

/**
 * Compiles a schema when an answer first needs it, and once for all routes and apps that answer by
 * it: some four hundred answers of ours share a few dozen, and most problems never happen.
 */
export const buildSerializer = ((shared: Schemas, options: object) => (route: Answer) => {
  let serialize: Serialize | undefined
  return (value: unknown) => {
    serialize ??= compile(route, shared, options)
    return serialize(value)
  }
}) as unknown as BuildSerializer

/** A compilation checks every schema that it is given: those alone that this one refers to. */
function compile(route: Answer, shared: Schemas, options: object): Serialize {
  const referred = referredBy(route.schema, shared)
  const identity = JSON.stringify([route.schema, referred, options])
  const known = compiled.get(identity)
  if (known) return known
  const serialize = buildCompiler(referred, options)(route)
  compiled.set(identity, serialize)
  return serialize
}

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
