import { type TObject, type TProperties, type TSchema, Type } from '@sinclair/typebox'
import type { FastifyReply } from 'fastify'
import type { Page, Query } from '../../adapters/storage/port.js'
import { Choice, Timestamp, withoutExamples } from '../../schemas/fields.js'
import type { AnyResource } from '../../schemas/resource.js'

/** What all lists have in common: their query, their answer, and where they go on. */

const DEFAULT_LIMIT = 50
const MOST_LIMIT = 250

/** The query of a list: its declared filters, the page, the order, the period. */
export function listQuery(
  resource: AnyResource,
  filters: readonly string[] = shownFilters(resource)
): TObject {
  const properties: TProperties = {
    limit: Type.Optional(
      Type.Integer({
        minimum: 1,
        maximum: MOST_LIMIT,
        default: DEFAULT_LIMIT,
        description:
          'Rows in a page. Where they come to more than 4 MiB, it has fewer, and Link names the next page.'
      })
    ),
    cursor: Type.Optional(
      Type.String({ maxLength: 1024, description: 'From the Link header of the page before.' })
    ),
    order: Type.Optional(
      withoutExamples(
        Choice(['asc', 'desc'], {
          default: 'desc',
          description: '`desc` for the newest first, `asc` for the oldest.'
        })
      )
    ),
    count: Type.Optional(
      withoutExamples(
        Choice(['exact'], { description: '`exact` adds X-Total-Count to the answer.' })
      )
    )
  }
  if (resource.period) {
    properties.since = Type.Optional({
      ...withoutExamples(Timestamp()),
      description:
        `Only rows with \`${resource.order}\` at this time or later. A row appears when it is committed, up to a ` +
        'minute after its time: to follow the list, ask for the last minute again.'
    })
    properties.until = Type.Optional({
      ...withoutExamples(Timestamp()),
      description: `Only rows with \`${resource.order}\` before this time.`
    })
  }
  for (const field of filters) {
    const { default: _, ...schema } = withoutExamples(
      notNull(resource.row.properties[field] as TSchema)
    )
    properties[field] = Type.Optional({
      ...schema,
      description: `Only rows with this \`${field}\`.`
    })
  }
  return Type.Object(properties, { additionalProperties: false })
}

/** Whoever may not see a column may not search it either. */
function shownFilters({ filters, hidden }: AnyResource): readonly string[] {
  return filters.filter((field) => !hidden.includes(field))
}

function notNull(schema: TSchema): TSchema {
  const alternatives = (schema.anyOf as TSchema[] | undefined) ?? [schema]
  return alternatives.find(({ type }) => type !== 'null') as TSchema
}

/** A checked query string in the port's terms. */
export function toQuery<R extends AnyResource>(given: Readonly<Record<string, unknown>>): Query<R> {
  const { limit, cursor, order, count, since, until, ...filter } = given
  return { limit, cursor, order, count, since, until, filter } as Query<R>
}

export function listAnswers(shown: TSchema) {
  return {
    200: {
      description: 'A page.',
      schema: Type.Array(shown),
      headers: ['Link', 'X-Total-Count']
    }
  } as const
}

/** Sends a page as a bare array; where it goes on is in the headers. */
export function sendPage<T>(
  reply: FastifyReply,
  url: string,
  page: Page<T>,
  view: (row: T) => unknown
): unknown[] {
  if (page.next) linkNext(reply, url, { cursor: page.next })
  if (page.total !== undefined) reply.header('x-total-count', page.total)
  return page.rows.map(view)
}

/** Names the address of the next page: this one's, with other parameters. */
export function linkNext(
  reply: FastifyReply,
  url: string,
  parameters: Readonly<Record<string, string>>
): void {
  const next = new URL(url, 'http://localhost')
  for (const [name, value] of Object.entries(parameters)) next.searchParams.set(name, value)
  reply.header('link', `<${next.pathname}${next.search}>; rel="next"`)
}
