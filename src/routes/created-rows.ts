import type { TSchema } from '@sinclair/typebox'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Awaitable } from '../../adapters/awaitable.js'
import type { NewRow, Stored } from '../../adapters/storage/port.js'
import type { AnyResource } from '../../schemas/resource.js'
import type { Attempt, Creation } from '../idempotency.js'
import { type Caller, etag } from '../route.js'

/** Of a route that creates a row. */
export function createdAnswer(shown: TSchema, description = 'Created.') {
  return { 201: { description, schema: shown, headers: ['ETag', 'Location'] } } as const
}

/** Stored by itself, unless told otherwise. */
type RowCreation<R extends AnyResource> = Omit<Creation<R>, 'tenant' | 'make' | 'store'> &
  Partial<Pick<Creation<R>, 'store'>> & {
    readonly make: (attempt: Attempt) => Awaitable<NewRow<R>>
  }

/** Creates a row, once however often the request is repeated, and says where it is. */
export async function createRow<R extends AnyResource>(
  { idempotency }: FastifyInstance,
  request: FastifyRequest,
  reply: FastifyReply,
  { principal, store }: Caller,
  creation: RowCreation<R>
): Promise<Stored<R>> {
  const { resource } = creation
  const attempt = idempotency.attempt(request, principal.id)
  const row = await attempt.create<R>({
    store: (row, along) => store.insert(resource, row, { along }),
    ...creation,
    tenant: principal.tenant,
    make: () => creation.make(attempt)
  })
  const location = locationOf(resource, row[resource.key as never] as string)
  reply.code(201).headers({ etag: etag(row as never), location })
  return row
}

/** Where a row is to be found. */
export function locationOf(resource: AnyResource, key: string): string {
  return `/api/${resource.path}/${encodeURIComponent(key)}`
}
