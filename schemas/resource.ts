import {
  type Static,
  type TObject,
  type TProperties,
  type TSchema,
  type TUnsafe,
  Type
} from '@sinclair/typebox'
import { Timestamp, Uuid, Version } from './fields.js'

/** What a caller may do: each role includes the ones before it. */
export const roles = ['viewer', 'editor', 'admin'] as const
export type Role = (typeof roles)[number]

/** Whether a role includes what another may do. */
export function includesRole(role: Role, needed: Role): boolean {
  return roles.indexOf(role) >= roles.indexOf(needed)
}

/**
 * Whose rows these are. `owned`: a `tenant_id` column, and every read and write stays inside one
 * tenant. `root`: the tenants themselves, so the id is the tenant. `system`: belongs to no tenant.
 */
export type Tenancy = 'owned' | 'root' | 'system'

/** A foreign key inside the tenant. `restrict` refuses to delete the target while it is in use. */
export interface Reference {
  readonly field: string
  readonly to: string
  readonly onDelete: 'restrict' | 'cascade'
}

/** Fields whose values, together, one row only may have, in the tenant or everywhere. */
export interface Unique {
  readonly fields: readonly string[]
  readonly within: 'tenant' | 'everywhere'
}

/** How a storage keeps a column. */
export type ColumnKind = 'text' | 'integer' | 'real' | 'boolean' | 'timestamp' | 'json'

export interface Column {
  readonly name: string
  readonly kind: ColumnKind
  readonly nullable: boolean
  /** Whether letters are kept in lower case, so that addresses compare without regard to case. */
  readonly lowerCase: boolean
  /** Whether its values may be as long as a request allows. */
  readonly unbounded: boolean
}

export type PlainOperation = 'list' | 'get' | 'create' | 'replace' | 'update' | 'delete'

/** The plain routes of a resource, and the least role that may read and write. */
export interface Access {
  readonly read: Role
  readonly write: Role
  readonly operations: readonly PlainOperation[]
}

/** Columns that every row has and no request sets. */
const stamps = { created_at: Timestamp(), updated_at: Timestamp(), version: Version() }
const tenantColumn = { tenant_id: Uuid() }

type Stamps = typeof stamps
type TenantColumn = typeof tenantColumn
type Name<Fields> = Extract<keyof Fields, string>

/** A declaration, as the files of this folder write it. */
export interface Declaration<
  Fields extends TProperties,
  Required extends Name<Fields>,
  Optional extends Name<Fields>,
  Hidden extends Name<Fields>,
  Filter extends Name<Fields>,
  WriteOnly extends TProperties,
  Computed extends TProperties
> {
  /** Table name and, unless there is a `path`, path segment. */
  readonly name: string
  readonly path?: string
  /** One of them: names audit actions (`flow.create`) and OpenAPI components (`Flow`). */
  readonly singular: string
  readonly description: string
  readonly tenancy?: Tenancy
  /** The columns, without `tenant_id`, `created_at`, `updated_at` and `version`. */
  readonly fields: Fields
  readonly key: Name<Fields>
  /** How a key comes to be: `uuid`, a client's choice or else this prefix plus a UUIDv7, or always given. */
  readonly keys: 'uuid' | 'given' | { readonly prefix: string }
  /** Columns that a request must, and may, set. */
  readonly required: readonly Required[]
  readonly optional: readonly Optional[]
  /** Those of them that only creating sets. */
  readonly createOnly?: readonly (Required | Optional)[]
  /** Columns that no answer shows. */
  readonly hidden?: readonly Hidden[]
  /** Properties of requests that are no column, such as a password. Required to create. */
  readonly writeOnly?: WriteOnly
  /** Properties of answers that are no column. */
  readonly computed?: Computed
  readonly references?: readonly (Reference & { field: Name<Fields> })[]
  readonly unique?: readonly Unique[]
  readonly filters: readonly Filter[]
  /** Filters that are used together often enough for an index of their own. */
  readonly combinedFilters?: readonly (readonly Filter[])[]
  /** The timestamp that lists are sorted by, newest first; the key breaks ties. */
  readonly order?: Name<Fields> | 'created_at'
  /** Whether lists take `since` (inclusive) and `until` (exclusive) on `order`. */
  readonly period?: boolean
  readonly audited: boolean
  readonly access?: Access
}

type Values<Fields extends TProperties> = { [K in keyof Fields]: Static<Fields[K]> }
type RowOf<Fields extends TProperties, T extends Tenancy> = Values<Fields> &
  Values<Stamps> &
  (T extends 'owned' ? Values<TenantColumn> : unknown)
type CreateOf<
  Fields extends TProperties,
  Required,
  Optional,
  WriteOnly extends TProperties
> = Values<Pick<Fields, Extract<Required, keyof Fields>>> &
  Partial<Values<Pick<Fields, Extract<Optional, keyof Fields>>>> &
  Values<WriteOnly>

/** An object schema whose static type is `T`. */
type Shape<T> = TUnsafe<T> & { readonly properties: TProperties }
/** The name by which others refer to a schema. */
export interface Named {
  readonly $id: string
}
type NamedShape<T> = Shape<T> & Named

/** A declaration together with everything that follows from it. */
export interface Resource<
  Row = Record<string, unknown>,
  Create = Record<string, unknown>,
  View = Record<string, unknown>,
  Filter extends string = string
> {
  readonly name: string
  /** Where its routes are, below `/api/`. */
  readonly path: string
  readonly singular: string
  readonly description: string
  readonly tenancy: Tenancy
  readonly key: string
  readonly keys: 'uuid' | 'given' | { readonly prefix: string }
  readonly references: readonly Reference[]
  readonly unique: readonly Unique[]
  readonly filters: readonly Filter[]
  /**
   * The fields of each index that finds the rows of a filter or a reference, in list order; the most
   * telling first. Unique fields need none.
   */
  readonly indexes: readonly (readonly string[])[]
  readonly order: string
  readonly period: boolean
  readonly audited: boolean
  readonly access: Access | undefined
  /** The column that confines a row to its tenant, or null where there is none. */
  readonly scope: 'tenant_id' | 'id' | null
  readonly columns: readonly Column[]
  /** Columns that no answer shows, and the properties of requests that they are made of. */
  readonly hidden: readonly string[]
  readonly writeOnly: readonly string[]
  /** The row as storages keep it. */
  readonly row: Shape<Row>
  /** The row as answers show it. */
  readonly view: NamedShape<View>
  /** The bodies of POST, PUT and PATCH. */
  readonly create: NamedShape<Create>
  readonly replace: NamedShape<Create>
  readonly update: NamedShape<Partial<Create>>
}

// biome-ignore lint/suspicious/noExplicitAny: the one place that means "whatever the resource"
export type AnyResource = Resource<any, any, any, any>
export type Row<R extends AnyResource> = Static<R['row']>
export type FilterField<R extends AnyResource> = R['filters'][number]

/** Derives rows, views, bodies and columns from a declaration. */
export function defineResource<
  Fields extends TProperties,
  const Required extends Name<Fields>,
  const Optional extends Name<Fields>,
  const Filter extends Name<Fields>,
  const Hidden extends Name<Fields> = never,
  WriteOnly extends TProperties = Record<never, never>,
  Computed extends TProperties = Record<never, never>,
  const T extends Tenancy = 'owned'
>(
  declaration: Declaration<Fields, Required, Optional, Hidden, Filter, WriteOnly, Computed> & {
    readonly tenancy?: T
  }
): Resource<
  RowOf<Fields, T>,
  CreateOf<Fields, Required, Optional, WriteOnly>,
  Values<Omit<Fields, Hidden>> & Values<Computed> & Values<Stamps>,
  Filter
> {
  const { fields, key, keys, required, optional, writeOnly = {}, computed = {} } = declaration
  const tenancy: Tenancy = declaration.tenancy ?? 'owned'
  const component = pascalCase(declaration.singular)

  const row = Type.Object({ ...fields, ...(tenancy === 'owned' ? tenantColumn : {}), ...stamps })
  const shown = Type.Omit(Type.Object({ ...fields }), declaration.hidden ?? [])
  const view = object(component, { ...shown.properties, ...computed, ...stamps })

  const given: TProperties = { ...writeOnly }
  for (const name of required) given[name] = fields[name] as TSchema
  for (const name of optional) given[name] = Type.Optional(fields[name] as TSchema)
  const keyField = fields[key] as TSchema
  const chosenKey: TProperties =
    keys === 'uuid' ? {} : { [key]: keys === 'given' ? keyField : Type.Optional(keyField) }
  const createOnly: readonly string[] = declaration.createOnly ?? []
  const changes = Object.entries(given)
    .filter(([name]) => !createOnly.includes(name))
    .map(([name, field]) => [name, withoutDefault(field)])

  return {
    name: declaration.name,
    path: declaration.path ?? declaration.name,
    singular: declaration.singular,
    description: declaration.description,
    tenancy,
    key,
    keys,
    references: declaration.references ?? [],
    unique: declaration.unique ?? [],
    filters: declaration.filters,
    indexes: indexesOf(declaration),
    order: declaration.order ?? 'created_at',
    period: declaration.period ?? false,
    audited: declaration.audited,
    access: declaration.access,
    scope: tenancy === 'owned' ? 'tenant_id' : tenancy === 'root' ? 'id' : null,
    columns: Object.entries(row.properties).map(([name, schema]) => column(name, schema)),
    hidden: declaration.hidden ?? [],
    writeOnly: Object.keys(writeOnly),
    row: row as never,
    view: view as never,
    create: object(
      `${component}Create`,
      { ...chosenKey, ...given },
      // A key that the server can make is better left to it.
      { examples: [exampleOf(keys === 'given' ? { ...chosenKey, ...given } : given)] }
    ) as never,
    replace: object(`${component}Replace`, given) as never,
    update: object(
      `${component}Update`,
      Type.Partial(Type.Object(Object.fromEntries(changes))).properties,
      { minProperties: 1 }
    ) as never
  }
}

/**
 * The combined filters, then each reference and each filter that is not unique alone. References come
 * first: few rows share what they refer to, and many may share a status.
 */
function indexesOf({ combinedFilters = [], references = [], unique = [], filters }: Indexed) {
  const alone = new Set([...references.map(({ field }) => field), ...filters])
  for (const { fields } of unique) if (fields.length === 1) alone.delete(fields[0] as string)
  return [...combinedFilters, ...[...alone].map((field) => [field])]
}

interface Indexed {
  readonly combinedFilters?: readonly (readonly string[])[]
  readonly references?: readonly Reference[]
  readonly unique?: readonly Unique[]
  readonly filters: readonly string[]
}

interface ObjectOptions {
  readonly minProperties?: number
  readonly description?: string
  readonly examples?: unknown[]
  /** The properties that must come with one. */
  readonly dependentRequired?: Readonly<Record<string, readonly string[]>>
  /** What must hold of an object that has one. */
  readonly dependentSchemas?: Readonly<Record<string, { readonly minProperties: number }>>
}

/** A named object that refuses unknown properties and shows an example made of its fields'. */
export function object<Properties extends TProperties>(
  $id: string,
  properties: Properties,
  options: ObjectOptions = {}
): TObject<Properties> & Named {
  return Type.Object(properties, {
    $id,
    additionalProperties: false,
    examples: [exampleOf(properties)],
    ...options
  }) as TObject<Properties> & Named
}

function exampleOf(properties: TProperties): Record<string, unknown> {
  const examples = Object.entries(properties).map(([name, { examples }]) => [
    name,
    (examples as unknown[] | undefined)?.[0] ?? null
  ])
  return Object.fromEntries(examples)
}

/** PATCH changes what is given: a default would change what is not. */
function withoutDefault(schema: TSchema): TSchema {
  const { default: _, ...rest } = schema
  return rest as TSchema
}

function column(name: string, schema: TSchema): Column {
  const alternatives = (schema.anyOf as TSchema[] | undefined) ?? [schema]
  const nullable = alternatives.some(({ type }) => type === 'null' || type === undefined)
  const [type = schema] = alternatives.filter((each) => each.type !== 'null')
  const kind = kindOf(type)
  const lowerCase = type.format === 'email'
  return { name, kind, nullable, lowerCase, unbounded: isUnbounded(kind, type) }
}

function isUnbounded(kind: ColumnKind, { maxLength, format, enum: choices }: TSchema) {
  // A pattern may say how long a text is, but not so that this could be read.
  const bound = maxLength ?? format ?? choices
  return kind === 'json' || (kind === 'text' && bound === undefined)
}

function kindOf(schema: TSchema): ColumnKind {
  switch (schema.type) {
    case 'string':
      return schema.format === 'date-time' ? 'timestamp' : 'text'
    case 'integer':
      return 'integer'
    case 'number':
      return 'real'
    case 'boolean':
      return 'boolean'
    default:
      return 'json'
  }
}

/** Words joined in PascalCase; anything but letters separates them. */
export function pascalCase(words: string): string {
  return words.replace(/(?:^|[^A-Za-z]+)([A-Za-z])/g, (_, letter: string) => letter.toUpperCase())
}
