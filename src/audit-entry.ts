import type { Change } from '../adapters/storage/port.js'
import { timestampOf } from '../adapters/storage/timestamp.js'
import { uuid } from '../adapters/uuid.js'
import { audit } from '../schemas/audit.js'
import type { AnyResource } from '../schemas/resource.js'
import type { Origin } from './store.js'

/** Who did what nobody asked for. */
export const bySystem = { actor: 'system', requestId: null } as const

/** What leaves an audit entry, in the commit that it is about. */
export function auditEntry(
  { actor, requestId }: Pick<Origin, 'actor' | 'requestId'>,
  at: Date,
  verb: string,
  { name, singular }: AnyResource,
  key: string,
  fields: readonly string[] = []
): Change {
  const row = {
    id: uuid(),
    actor,
    action: `${singular}.${verb}`,
    resource: name,
    resource_id: key,
    fields,
    at: timestampOf(at),
    request_id: requestId
  }
  return { op: 'insert', resource: audit, row }
}
