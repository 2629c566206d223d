import { hash } from 'node:crypto'
import type { FastifyRequest } from 'fastify'
import { type Awaitable, whenThere } from '../adapters/awaitable.js'
import { isStorageError, StorageError } from '../adapters/storage/errors.js'
import { normalValue } from '../adapters/storage/normal-value.js'
import type { Change, NewRow, Storage, Stored, TenantId } from '../adapters/storage/port.js'
import { uuid } from '../adapters/uuid.js'
import { idempotencyKeys } from '../schemas/idempotency-keys.js'
import type { AnyResource } from '../schemas/resource.js'
import type { Keyring } from './encryption.js'
import { ApiError } from './problems.js'

/**
 * What an Idempotency-Key promises: however often a request is sent with it, at once or one after
 * the other, one row is created, and every answer is the first one.
 *
 * A record of the request is stored in the same commit as the row, so that neither is without the
 * other. Of two requests at once, the second fails on the record's key, is rolled back whole, and
 * answers from the record of the first. Since a version is the number of a commit, the record's is
 * the row's, and its ETag can be sent again.
 */
export interface Idempotency {
  /** @param actor who asks: the same key of another actor is another key. */
  attempt(request: CreatingRequest, actor: string): Attempt
}

/** What requests are told apart by. */
export type CreatingRequest = Pick<
  FastifyRequest,
  'headers' | 'method' | 'routeOptions' | 'params' | 'query' | 'body'
>

/** One request's try to create a row. */
export interface Attempt {
  /** Whether it came with a key, so that it may be one of several tries. */
  readonly isRepeatable: boolean
  /** A UUID for something that the request makes: each try with its key, or all of it, gets the same. */
  uuid(name: string, ofEach: 'key' | 'request'): string
  /**
   * The row that the request creates, or has created. One of an earlier try is as it was then,
   * whatever became of it, and without its hidden columns.
   *
   * @throws ApiError `idempotency_key_reused` where the key belongs to another request, and
   * `already_created` where the first answer cannot be repeated.
   */
  create<R extends AnyResource>(creation: Creation<R>): Promise<Stored<R>>
}

export interface Creation<R extends AnyResource> {
  readonly tenant: TenantId
  readonly resource: R
  /** The row that is asked for. */
  readonly make: () => Awaitable<NewRow<R>>
  /** Stores the row and, in the same commit, what goes along. */
  readonly store: (row: NewRow<R>, along: readonly Change[]) => Promise<Stored<R>>
  /** Where the answer shows a credential, which is kept nowhere: what one who repeats it can do. */
  readonly insteadOfRepeat?: string
}

export interface IdempotencyOptions {
  readonly storage: Storage
  readonly keyring: Keyring
  /** How long a repeat is answered as the first, in milliseconds. */
  readonly lifeMs: number
}

type StoredRecord = Stored<typeof idempotencyKeys>

/** A further try means that the record of another request came or went meanwhile. */
const MOST_TRIES = 5

export function createIdempotency({ storage, keyring, lifeMs }: IdempotencyOptions): Idempotency {
  function repeatableAttempt(request: CreatingRequest, actor: string, key: string): Attempt {
    const id = hashOfParts([actor, request.method, request.routeOptions.url, key])
    const { params, query, body } = request
    const digests = keyring.digests(canonical([params, query, body]))

    function find(tenant: TenantId): Promise<StoredRecord | null> {
      return storage.get({ resource: idempotencyKeys, tenant }, id)
    }

    /** What stores the record, in the place of one that is over. */
    function recordChanges(
      old: StoredRecord | null,
      { resource, insteadOfRepeat }: Pick<Creation<AnyResource>, 'resource' | 'insteadOfRepeat'>,
      row: Readonly<Record<string, unknown>>
    ): Change[] {
      const record: NewRow<typeof idempotencyKeys> = {
        id,
        request_digest: digests[0],
        resource_id: row[resource.key] as string,
        content: insteadOfRepeat === undefined ? shownColumns(resource, row) : null,
        expires_at: new Date(Date.now() + lifeMs).toISOString()
      }
      const about = { resource: idempotencyKeys, key: id } as const
      return [
        ...(old ? [{ op: 'delete', ...about, expect: old.version } as const] : []),
        { op: 'insert', ...about, row: record }
      ]
    }

    function replay(
      { request_digest, resource_id, content, ...record }: StoredRecord,
      { insteadOfRepeat }: Pick<Creation<AnyResource>, 'insteadOfRepeat'>
    ) {
      if (!digests.includes(request_digest)) throw new ApiError('idempotency_key_reused')
      if (content === null)
        throw new ApiError(
          'already_created',
          `An earlier request with this Idempotency-Key created ${resource_id}. Its answer held a credential and was not kept: ${insteadOfRepeat}.`,
          { id: resource_id }
        )
      const { tenant_id, created_at, version } = record
      return { ...(content as object), tenant_id, created_at, updated_at: created_at, version }
    }

    return {
      isRepeatable: true,
      uuid: (name, ofEach) =>
        uuidOf(hashOfParts(ofEach === 'key' ? [id, name] : [id, name, digests[0]])),

      async create(creation) {
        for (let tries = 1; ; tries++) {
          const record = await find(creation.tenant)
          if (record && isLive(record)) return replay(record, creation) as never
          const row = await creation.make()
          try {
            return await creation.store(row, recordChanges(record, creation, row as never))
          } catch (error) {
            // Another try may have done it; so may this one, where only the answer was lost.
            const winner = await find(creation.tenant).catch(() => null)
            const isLost = isStorageError(error, 'outcome_unknown')
            if (winner && isLive(winner))
              return replay(isLost ? completed(winner, creation, row) : winner, creation) as never
            if (!isAboutRecord(error) || tries === MOST_TRIES) throw error
          }
        }
      }
    }
  }

  return {
    attempt(request, actor) {
      const key = request.headers['idempotency-key']
      if (typeof key === 'string') return repeatableAttempt(request, actor, key)
      return {
        isRepeatable: false,
        uuid: () => uuid(),
        create: async ({ make, store }) => whenThere(make(), (row) => store(row, []))
      }
    }
  }
}

/** The record of a row with what it keeps of no credential, where the row is the one at hand. */
function completed(
  record: StoredRecord,
  { resource }: { resource: AnyResource },
  row: Readonly<Record<string, unknown>>
): StoredRecord {
  const isAtHand = record.content === null && record.resource_id === row[resource.key]
  return isAtHand ? { ...record, content: shownColumns(resource, row) } : record
}

function isLive({ expires_at }: StoredRecord): boolean {
  return Date.parse(expires_at) > Date.now()
}

/** The columns that answers show, as the storage keeps them; its stamps are the record's. */
function shownColumns(
  { columns, hidden }: AnyResource,
  row: Readonly<Record<string, unknown>>
): Record<string, unknown> {
  const unknown = new Set([...hidden, 'tenant_id', 'created_at', 'updated_at', 'version'])
  const shown = columns.filter(({ name }) => !unknown.has(name))
  return Object.fromEntries(
    shown.map((column) => [column.name, normalValue(column, row[column.name])])
  )
}

function isAboutRecord(error: unknown): boolean {
  return error instanceof StorageError && error.resource === idempotencyKeys.name
}

/** SHA-256 in hex. As JSON, no two lists of parts run together into the same text. */
function hashOfParts(parts: readonly unknown[]): string {
  return hash('sha256', JSON.stringify(parts), 'hex')
}

/** Version 8 of RFC 9562: what the other bits say is up to us. */
function uuidOf(hash: string): string {
  const variant = '89ab'[Number.parseInt(hash.charAt(16), 16) % 4]
  const groups = [
    hash.slice(0, 8),
    hash.slice(8, 12),
    `8${hash.slice(13, 16)}`,
    `${variant}${hash.slice(17, 20)}`,
    hash.slice(20, 32)
  ]
  return groups.join('-')
}

/** JSON that is the same for equal values: keys of objects are sorted. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_, inner) =>
    typeof inner === 'object' && inner !== null && !Array.isArray(inner)
      ? // A list, because `__proto__` and numbers have their own ways in objects.
        { sorted: Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)) }
      : inner
  )
}
