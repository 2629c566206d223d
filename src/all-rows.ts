import type { From, Page, Storage, Stored } from '../adapters/storage/port.js'
import type { AnyResource } from '../schemas/resource.js'

const PAGE = 200

/** All rows, a page at a time; oldest first, so that one that is made meanwhile comes last. */
export function allRows<R extends AnyResource>(
  storage: Storage,
  from: From<R>
): AsyncGenerator<Stored<R>> {
  return rowsOfPages((cursor) => storage.list(from, { order: 'asc', limit: PAGE, ...cursor }))
}

/** The rows of all pages, each of which is read when the one before is at its end. */
export async function* rowsOfPages<T>(
  read: (cursor: { readonly cursor?: string }) => Promise<Page<T>>
): AsyncGenerator<T> {
  let next: string | null = null
  do {
    const page: Page<T> = await read(next ? { cursor: next } : {})
    yield* page.rows
    next = page.next
  } while (next)
}
