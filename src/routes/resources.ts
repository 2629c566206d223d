import { Readable } from 'node:stream'
import { type TObject, type TSchema, type TString, Type } from '@sinclair/typebox'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { type Awaitable, whenThere } from '../../adapters/awaitable.js'
import type { Change, NewRow, Stored, Values } from '../../adapters/storage/port.js'
import { resources } from '../../schemas/registry.js'
import type { AnyResource } from '../../schemas/resource.js'
import type { Attempt } from '../idempotency.js'
import {
  type Caller,
  etag,
  ifMatchOf,
  isCreateOnly,
  isKnownAlready,
  type OperationText,
  route
} from '../route.js'
import { type ChangeOptions, newKey } from '../store.js'
import { pluralOf, withArticle, wordsOf } from '../words.js'
import { createdAnswer, createRow, locationOf } from './created-rows.js'
import { listAnswers, listQuery, sendPage, toQuery } from './lists.js'

/** Where a resource is more than its columns. */
export interface Behaviour<R extends AnyResource> {
  /** The row as answers show it. */
  readonly view?: (row: Stored<R>, caller: Caller) => unknown
  /** The columns that a body means, for rows made and replaced. */
  readonly columns?: (body: Body, key: string, caller: Caller) => Values<R>
  /** The key of a row that is made, where it is neither given nor just any. */
  readonly newKey?: (attempt: Attempt, caller: Caller) => Awaitable<string>
  readonly create?: (
    row: NewRow<R>,
    body: Body,
    caller: Caller,
    along: readonly Change[]
  ) => Promise<Stored<R>>
  readonly update?: (
    key: string,
    body: Body,
    caller: Caller,
    options: ChangeOptions
  ) => Promise<Stored<R>>
  readonly remove?: (key: string, caller: Caller, options: ChangeOptions) => Promise<void>
  /** Statuses of problems that its own steps add to those that follow from the declaration. */
  readonly problems?: Readonly<Partial<Record<'create' | 'update' | 'delete', readonly number[]>>>
}
type Body = Readonly<Record<string, unknown>>

/** The plain routes of a resource, as its declaration lists them. */
export function resourceRoutes<R extends AnyResource>(
  app: FastifyInstance,
  resource: R,
  behaviour: Behaviour<R> = {}
): void {
  const { name, path, key, access } = resource
  if (!access) throw new TypeError(`${name} have no routes`)
  const { read, write, operations } = access
  const view = behaviour.view ?? ((row: Stored<R>) => row)
  const columns = behaviour.columns ?? ((body: Body) => body as Values<R>)
  const collection = `/${path}`
  const item = `/${path}/:${key}`
  const params = keyParams(resource)
  const shown = Type.Ref(resource.view.$id)
  const one = withArticle(wordsOf(resource))

  function operation(verb: string, summary: string): OperationText {
    return { id: `${verb}${resource.view.$id}`, tag: path, summary }
  }

  function send(reply: FastifyReply, row: Stored<R>, caller: Caller) {
    reply.header('etag', etag(row as never))
    return view(row, caller)
  }

  if (operations.includes('list'))
    route(app, {
      method: 'GET',
      url: collection,
      role: read,
      operation: {
        id: `list${pluralOf(resource.view.$id)}`,
        tag: path,
        summary: `List ${pluralOf(wordsOf(resource))}, newest first`
      },
      query: listQuery(resource),
      answers: listAnswers(shown),
      async handler({ query, url }, reply, caller) {
        const page = await caller.store.list(resource, toQuery<R>(query))
        return sendPage(reply, url, page, (row) => view(row, caller))
      }
    })

  if (operations.includes('get'))
    route(app, {
      method: 'GET',
      url: item,
      role: read,
      operation: operation('get', `Get ${one}`),
      params,
      answers: {
        200: { description: `The ${wordsOf(resource)}.`, schema: shown, headers: ['ETag'] },
        ...(behaviour.view ? {} : { 304: { description: 'It is as before.', headers: ['ETag'] } })
      },
      async handler(request, reply, caller) {
        const row = await caller.store.need(resource, keyOf(request, key))
        const answer = send(reply, row, caller)
        // What else a view is made of may have changed.
        if (behaviour.view || !isKnownAlready(request, row as never)) return answer
        // To a HEAD without a payload Fastify would say that the row has no length.
        const nothing = request.method === 'HEAD' ? Readable.from([]) : undefined
        return reply.code(304).send(nothing)
      }
    })

  if (operations.includes('create'))
    route(app, {
      method: 'POST',
      url: collection,
      role: write,
      operation: operation('create', `Create ${one}`),
      body: resource.create,
      answers: createdAnswer(shown),
      creates: true,
      problems: behaviour.problems?.create ?? [],
      async handler(request, reply, caller) {
        const body = request.body as Body
        const { create } = behaviour
        const created = await createRow<R>(app, request, reply, caller, {
          resource,
          make(attempt) {
            const given = body[key] as string | undefined
            const chosen = given ?? behaviour.newKey?.(attempt, caller) ?? newKey(resource)
            return whenThere(
              chosen,
              (id) => ({ [key]: id, ...columns(body, id, caller) }) as NewRow<R>
            )
          },
          ...(create ? { store: (row, along) => create(row, body, caller, along) } : {})
        })
        return view(created, caller)
      }
    })

  if (operations.includes('replace'))
    route(app, {
      method: 'PUT',
      url: item,
      role: write,
      operation: {
        ...operation('replace', `Create or replace ${one}`),
        description: 'Fields that are left out get their defaults, or null without one.'
      },
      params,
      body: resource.replace,
      answers: {
        200: { description: 'Replaced.', schema: shown, headers: ['ETag'] },
        ...createdAnswer(shown)
      },
      problems: [409, 412],
      async handler(request, reply, caller) {
        const id = keyOf(request, key)
        const values = withNulls(resource, columns(request.body as Body, id, caller))
        const { row, created } = await caller.store.replace(resource, id, values, {
          ifMatch: ifMatchOf(request),
          createOnly: isCreateOnly(request)
        })
        if (created) reply.code(201).header('location', locationOf(resource, id))
        return send(reply, row, caller)
      }
    })

  if (operations.includes('update'))
    route(app, {
      method: 'PATCH',
      url: item,
      role: write,
      operation: operation('update', `Change the given fields of ${one}`),
      params,
      body: resource.update,
      answers: { 200: { description: 'Changed.', schema: shown, headers: ['ETag'] } },
      problems: [
        412,
        ...(canCollide(resource) ? [409] : []),
        ...(behaviour.problems?.update ?? [])
      ],
      async handler(request, reply, caller) {
        const id = keyOf(request, key)
        const options = { ifMatch: ifMatchOf(request) }
        const body = request.body as Body
        const row = behaviour.update
          ? await behaviour.update(id, body, caller, options)
          : await caller.store.update(resource, id, columns(body, id, caller), options)
        return send(reply, row, caller)
      }
    })

  if (operations.includes('delete'))
    route(app, {
      method: 'DELETE',
      url: item,
      role: write,
      operation: operation('delete', `Delete ${one}`),
      params,
      answers: { 204: { description: 'Deleted.' } },
      problems: [
        412,
        ...(isReferredTo(resource) ? [409] : []),
        ...(behaviour.problems?.delete ?? [])
      ],
      async handler(request, reply, caller) {
        const id = keyOf(request, key)
        const options = { ifMatch: ifMatchOf(request) }
        if (behaviour.remove) await behaviour.remove(id, caller, options)
        else await caller.store.remove(resource, id, options)
        return reply.code(204).send()
      }
    })
}

/** The path parameter that names a row of a resource. */
function keyParams(resource: AnyResource): TObject {
  const schema = resource.row.properties[resource.key] as TSchema
  const description = `The ${resource.key} of the ${wordsOf(resource)}.`
  return Type.Object({ [resource.key]: { ...schema, description } })
}

/** That of a resource whose key is `id`. */
export function idParams(resource: AnyResource) {
  return keyParams(resource) as TObject<{ id: TString }>
}

/** PUT says all there is to say, so what it leaves out is empty. */
function withNulls<R extends AnyResource>(resource: R, values: Values<R>): Values<R> {
  const writable = Object.keys(resource.replace.properties)
  const columns = resource.columns.filter(({ name }) => writable.includes(name))
  const empty = columns.map(({ name }) => [name, null])
  return { ...Object.fromEntries(empty), ...values }
}

function keyOf(request: Pick<FastifyRequest, 'params'>, key: string): string {
  return (request.params as Record<string, string>)[key] as string
}

/** Whether new values of a row can contradict other rows. */
export function canCollide({ unique, references, update }: AnyResource): boolean {
  const fields = [...unique.flatMap((each) => each.fields), ...references.map(({ field }) => field)]
  return fields.some((field) => field in update.properties)
}

/** Whether rows can be in the way of deleting one of these. */
export function isReferredTo({ name }: AnyResource): boolean {
  return resources.some(({ references }) =>
    references.some(({ to, onDelete }) => to === name && onDelete === 'restrict')
  )
}
