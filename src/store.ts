import { isDeepStrictEqual } from 'node:util'
import type { Awaitable } from '../adapters/awaitable.js'
import { isStorageError, StorageError, type StorageErrorCode } from '../adapters/storage/errors.js'
import { normalValue } from '../adapters/storage/normal-value.js'
import type {
  Change,
  Committed,
  NewRow,
  Page,
  Query,
  Storage,
  Stored,
  TenantId,
  Values
} from '../adapters/storage/port.js'
import { uuid } from '../adapters/uuid.js'
import type { AnyResource, Column } from '../schemas/resource.js'
import { auditEntry } from './audit-entry.js'
import { ApiError } from './problems.js'
import { withArticle, wordsOf } from './words.js'

/** On whose behalf a store acts: every audit entry says so. */
export interface Origin {
  readonly tenant: TenantId
  /** The id of the user or the API key, or `system`. */
  readonly actor: string
  readonly requestId: string | null
}

/** The versions that a row may have: `any` is some row, whatever its version. */
export type IfMatch = ReadonlySet<number> | 'any' | undefined

export interface ChangeOptions {
  readonly ifMatch?: IfMatch
  /** The verb of the audit entry, where it says more than create, update or delete. */
  readonly verb?: string
  /** Changes that belong into the same commit. */
  readonly along?: readonly Change[]
  /**
   * Write-only fields that are kept somewhere else, such as a password: they changed, whether a
   * column did or not, and the audit entry says so.
   */
  readonly elsewhere?: readonly string[]
}

/**
 * The storage as one caller sees it: inside one tenant, and with an audit entry in every commit
 * that changes an audited row.
 */
export interface Store {
  readonly tenant: TenantId
  get<R extends AnyResource>(resource: R, key: string): Promise<Stored<R> | null>
  /** @throws StorageError `not_found`, or `stale` where the row has none of the versions */
  need<R extends AnyResource>(resource: R, key: string, ifMatch?: IfMatch): Promise<Stored<R>>
  list<R extends AnyResource>(resource: R, query: Query<R>): Promise<Page<Stored<R>>>
  insert<R extends AnyResource>(
    resource: R,
    row: NewRow<R>,
    options?: ChangeOptions
  ): Promise<Stored<R>>
  /**
   * Sets all that is given; where nothing of it differs from the row, nothing is written. A function
   * decides by the row as it is at the moment of the commit, and is asked again if that changed
   * meanwhile.
   */
  update<R extends AnyResource>(
    resource: R,
    key: string,
    set: Values<R> | ((row: Stored<R>) => Awaitable<Values<R>>),
    options?: ChangeOptions
  ): Promise<Stored<R>>
  /** Creates the row or sets all that it is made of, unless it is only to create. */
  replace<R extends AnyResource>(
    resource: R,
    key: string,
    values: Values<R>,
    options?: ChangeOptions & { readonly createOnly?: boolean }
  ): Promise<{ row: Stored<R>; created: boolean }>
  remove<R extends AnyResource>(resource: R, key: string, options?: ChangeOptions): Promise<void>
  /** Several changes, all or none. */
  commit<const Changes extends readonly Change[]>(
    changes: Changes,
    options?: Pick<ChangeOptions, 'verb' | 'elsewhere'>
  ): Promise<Committed<Changes>>
}

/** A change, and of an update which of its columns are not as they were, where that is known. */
type Written = Change & { readonly changed?: readonly string[] }

/** How often a change that depends on the row is tried while others change the row too. */
const MOST_TRIES = 20
/** How often one that does not is, so that its audit entry tells what differed and no more. */
const EXACT_TRIES = 3

export function createStore(storage: Storage, origin: Origin): Store {
  const { tenant } = origin

  function entryFor(change: Written, at: Date, { verb, elsewhere = [] }: ChangeOptions): Change {
    const fields = changedFields(change, elsewhere)
    return auditEntry(origin, at, verb ?? verbs[change.op], change.resource, keyOf(change), fields)
  }

  /** Returns the rows of the changes, and then their audit entries. */
  function write(changes: readonly Written[], options: ChangeOptions = {}) {
    const at = new Date()
    const entries = changes
      .filter(({ op, resource }) => op !== 'check' && resource.audited)
      .map((change) => entryFor(change, at, options))
    return storage.commit({ tenant, at, changes: [...changes, ...entries] })
  }

  async function need<R extends AnyResource>(
    resource: R,
    key: string,
    ifMatch?: IfMatch
  ): Promise<Stored<R>> {
    const row = await storage.get({ resource, tenant }, key)
    if (!row) throw new StorageError('not_found', { resource: resource.name, key })
    if (!isVersions(ifMatch) || ifMatch.has(row.version as number)) return row
    if (ifMatch.size === 0)
      unmet(
        'If-Match has no ETag of this API: send it with its quotes and without W/, such as "7".'
      )
    throw new StorageError('stale', { resource: resource.name, key })
  }

  const store: Store = {
    tenant,
    get: (resource, key) => storage.get({ resource, tenant }, key),
    need,
    list: (resource, query) => storage.list({ resource, tenant }, query),
    commit: (async (changes, options) => {
      const rows = await write(changes, options)
      return rows.slice(0, changes.length)
    }) as Store['commit'],

    async insert(resource, row, options = {}) {
      const { along = [] } = options
      const [inserted] = await write([{ op: 'insert', resource, row }, ...along], options)
      return inserted as never
    },

    update(resource, key, given, options = {}) {
      const { ifMatch, along = [], elsewhere = [] } = options
      const decide = typeof given === 'function' ? given : () => given
      const guarded = typeof given === 'function' || isVersions(ifMatch)
      return untilUnchanged(resource, key, options, async (tries) => {
        const row = await need(resource, key, ifMatch)
        const set = await decide(row)
        const changed = changedColumns(resource, row, set)
        if (changed.length + along.length + elsewhere.length === 0) return row
        const exact = guarded || tries < EXACT_TRIES
        const about = exact ? { expect: row.version as number, changed } : { expect: undefined }
        // All that is given, not what differs from a row that may be another by now: of two who
        // change it at once, the last one wins with everything.
        const [updated] = await write(
          [{ op: 'update', resource, key, set, ...about }, ...along],
          options
        )
        return updated as never
      })
    },

    async replace(resource, key, values, options = {}) {
      for (let tries = 0; tries < MOST_TRIES; tries++) {
        if (await store.get(resource, key)) {
          if (options.createOnly) unmet(`There is already such ${withArticle(wordsOf(resource))}.`)
          try {
            return { row: await store.update(resource, key, values, options), created: false }
          } catch (error) {
            // Gone meanwhile, so it is as if it had not been there.
            if (!isErrorOf(error, 'not_found', resource, key)) throw error
            continue
          }
        }
        if (options.ifMatch)
          unmet(`There is no such ${wordsOf(resource)}: without If-Match it is created.`)
        try {
          const row = { [resource.key]: key, ...values } as NewRow<typeof resource>
          return { row: await store.insert(resource, row, options), created: true }
        } catch (error) {
          if (!isTaken(error, resource, key)) throw error
        }
      }
      throw new ApiError('concurrent_change')
    },

    async remove(resource, key, options = {}) {
      const { ifMatch, along = [] } = options
      const expect = isVersions(ifMatch)
        ? ((await need(resource, key, ifMatch)).version as number)
        : undefined
      await write([{ op: 'delete', resource, key, expect }, ...along], options)
    }
  }
  return store
}

/**
 * Starts over while others change the row, unless the caller asked for one version of it.
 * @param change is told how often it was tried before.
 */
export async function untilUnchanged<T>(
  resource: AnyResource,
  key: string,
  { ifMatch }: ChangeOptions,
  change: (tries: number) => Promise<T>
): Promise<T> {
  for (let tries = 0; tries < MOST_TRIES; tries++)
    try {
      return await change(tries)
    } catch (error) {
      if (isVersions(ifMatch) || !isErrorOf(error, 'stale', resource, key)) throw error
    }
  throw new ApiError('concurrent_change')
}

/** A key for a new row, as its resource makes them. */
export function newKey(resource: AnyResource): string {
  if (resource.keys === 'given') throw new TypeError(`${resource.name} are named by their creator`)
  return resource.keys === 'uuid' ? uuid() : `${resource.keys.prefix}_${uuid()}`
}

const verbs = { insert: 'create', update: 'update', delete: 'delete', check: 'check' } as const

function keyOf(change: Change): string {
  return change.op === 'insert' ? (change.row as never)[change.resource.key] : change.key
}

/** Names as clients know them: what was made of a password is called password. */
function changedFields(change: Written, elsewhere: readonly string[]): string[] {
  const { hidden, writeOnly } = change.resource
  const fields = new Set<string>(elsewhere.filter((field) => writeOnly.includes(field)))
  for (const name of writtenColumns(change)) {
    if (!hidden.includes(name)) fields.add(name)
    else for (const field of writeOnly) fields.add(field)
  }
  return [...fields].sort()
}

function writtenColumns(change: Written): readonly string[] {
  if (change.op === 'update') return change.changed ?? Object.keys(change.set)
  if (change.op !== 'insert') return []
  const row: Readonly<Record<string, unknown>> = change.row
  return Object.keys(row).filter((name) => (row[name] ?? null) !== null)
}

/** The columns that would change, compared as the storage keeps them. */
function changedColumns<R extends AnyResource>(
  { columns }: R,
  row: Stored<R>,
  set: Values<R>
): string[] {
  const given = set as Readonly<Record<string, unknown>>
  const differs = (column: Column) =>
    given[column.name] !== undefined &&
    !isDeepStrictEqual(
      row[column.name as keyof typeof row],
      normalValue(column, given[column.name])
    )
  return columns.filter(differs).map(({ name }) => name)
}

/** @throws ApiError `precondition_failed` */
function unmet(detail: string): never {
  throw new ApiError('precondition_failed', detail)
}

export function isVersions(ifMatch: IfMatch): ifMatch is ReadonlySet<number> {
  return ifMatch !== undefined && ifMatch !== 'any'
}

function isErrorOf(
  error: unknown,
  code: StorageErrorCode,
  resource: AnyResource,
  key: string
): error is StorageError {
  return isStorageError(error, code) && error.resource === resource.name && error.key === key
}

function isTaken(error: unknown, resource: AnyResource, key: string): boolean {
  return isErrorOf(error, 'conflict', resource, key) && error.fields.includes(resource.key)
}
