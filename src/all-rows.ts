import type { From, Page, Storage, Stored } from '../adapters/storage/port.js'
import type { AnyResource } from '../schemas/resource.js'

const PAGE = 200

/** All rows, a page at a time; oldest first, so that one that is made meanwhile comes last. */
export async function* allRows<R extends AnyResource>(
  storage: Storage,
  from: From<R>
): AsyncGenerator<Stored<R>> {
  let cursor: string | null = null
  do {
    const page: Page<Stored<R>> = await storage.list(from, {
      order: 'asc',
      limit: PAGE,
      ...(cursor ? { cursor } : {})
    })
    yield* page.rows
    cursor = page.next
  } while (cursor)
}
