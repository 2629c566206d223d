import Database, { type Connection } from '../../adapters/storage/better-sqlite3.js'

/**
 * Writes over HTTP whose answers are remembered, and what the server must show of them later: each
 * acknowledged one with its audit entry, and nothing half done.
 */

/** What is done to each flow, one after the other; its name counts the steps. */
export const steps = [
  { method: 'POST', action: 'flow.create' },
  { method: 'PATCH', action: 'flow.update' },
  { method: 'PATCH', action: 'flow.update' },
  { method: 'DELETE', action: 'flow.delete' }
] as const

/** A flow, and how far its writer knows that it came. */
export interface WrittenFlow {
  readonly id: string
  /** The request ids of the steps that were acknowledged. */
  readonly acknowledged: string[]
  /** Whether another step was sent and nobody answered it. */
  inDoubt: boolean
}

export interface Registered {
  readonly token: string
  readonly userId: string
  readonly requestId: string
}

/** What was done between a start and the kill. */
export interface Round {
  readonly since: string
  readonly flows: WrittenFlow[]
  readonly registered: Registered[]
}

interface Entry {
  readonly action: string
  readonly resource_id: string
  readonly request_id: string
}

/** An answer that is no success. */
export class Refused extends Error {
  readonly status: number
  readonly problem: { readonly code?: string; readonly detail?: string }
  readonly retryAfter: string | null

  constructor(request: string, answer: Response, text: string) {
    super(`${request}: ${answer.status} ${text}`)
    this.status = answer.status
    this.problem = JSON.parse(text)
    this.retryAfter = answer.headers.get('retry-after')
  }
}

/** @returns the id of the request, once the answer is there as a whole. */
export async function send(
  method: string,
  url: string,
  token: string,
  body?: object
): Promise<string> {
  const answer = await fetch(url, {
    method,
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    body: JSON.stringify(body ?? {})
  })
  const text = await answer.text()
  if (!answer.ok) throw new Refused(`${method} ${url}`, answer, text)
  return answer.headers.get('x-request-id') as string
}

export async function register(api: string, tenant_name: string): Promise<Registered> {
  const answer = await fetch(`${api}/auth/register`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      tenant_name,
      name: 'Ada',
      email: `${tenant_name.replace(' ', '.')}@example.com`,
      password: `the password of ${tenant_name}`
    })
  })
  const { token, user } = (await answer.json()) as { token: string; user: { id: string } }
  if (!answer.ok) throw new Error(`register: ${answer.status}`)
  const requestId = answer.headers.get('x-request-id') as string
  return { token, userId: user.id, requestId }
}

/** What the API, started again, shows otherwise than the writers were told. */
export async function faultsOf(api: string, token: string, round: Round): Promise<string[]> {
  const period = `since=${encodeURIComponent(round.since)}`
  const entries = new Map<string, Entry[]>()
  for (const entry of await readAll<Entry>(`${api}/audit?order=asc&${period}`, token)) {
    const ofRow = entries.get(entry.resource_id) ?? []
    entries.set(entry.resource_id, [...ofRow, entry])
  }
  const rows = await readAll<{ id: string; name: string }>(`${api}/flows?order=desc`, token)
  const names = new Map(rows.map(({ id, name }) => [id, name]))
  const ofFlows = round.flows.map((flow) =>
    faultOf(flow, entries.get(flow.id) ?? [], names.get(flow.id))
  )
  const ofRegistrations = await Promise.all(
    round.registered.map((registered) => registrationFault(api, registered))
  )
  return [...ofFlows, ...ofRegistrations].filter((fault) => fault !== undefined)
}

/** The entries say how many steps were stored: the row must have come as far, and no step be lost. */
function faultOf(flow: WrittenFlow, entries: readonly Entry[], name: string | undefined) {
  const { id, acknowledged, inDoubt } = flow
  const stored = entries.length
  const expected = stored === 0 || stored === steps.length ? undefined : String(stored)
  const story = `${id}: ${acknowledged.length} acknowledged, ${stored} audit entries, name ${name}`
  if (stored < acknowledged.length || stored > acknowledged.length + Number(inDoubt)) return story
  if (name !== expected) return story
  const told = entries.every(
    ({ action, request_id }, step) =>
      action === steps[step]?.action &&
      (acknowledged[step] === undefined || acknowledged[step] === request_id)
  )
  return told ? undefined : `${story}: not as told`
}

async function registrationFault(api: string, { token, userId, requestId }: Registered) {
  const entries = await readAll<Entry>(`${api}/audit?order=asc`, token)
  const made = entries.filter(({ request_id }) => request_id === requestId)
  const actions = made.map(({ action }) => action).sort()
  if (actions.join() !== 'tenant.create,user.create') return `user ${userId}: ${actions.join()}`
  return made.some(({ resource_id }) => resource_id === userId) ? undefined : `user ${userId}: lost`
}

async function readAll<Row>(url: string, token: string): Promise<Row[]> {
  const rows: Row[] = []
  let page: string | undefined = `${url}&limit=250`
  while (page) {
    const answer = await fetch(page, { headers: { authorization: `Bearer ${token}` } })
    if (!answer.ok) throw new Error(`${page}: ${answer.status} ${await answer.text()}`)
    rows.push(...((await answer.json()) as Row[]))
    const [, next] = /<(.+)>; rel="next"/.exec(answer.headers.get('link') ?? '') ?? []
    page = next && new URL(next, page).href
  }
  return rows
}

export function integrityOf(file: string): unknown {
  return inFile(file, (db) => db.pragma('integrity_check', { simple: true }))
}

/** Rows of a commit whose other rows are missing. */
export function halves(file: string): unknown[] {
  return inFile(file, (db) =>
    db
      .prepare(
        `select 'tenant ' || id as half from tenants
           where not exists (select 1 from users where tenant_id = tenants.id)
         union all select 'user ' || id from users
           where not exists (select 1 from audit where tenant_id = users.tenant_id
             and resource_id = users.id and action = 'user.create')
         union all select 'flow ' || id from flows
           where not exists (select 1 from audit where tenant_id = flows.tenant_id
             and resource_id = flows.id and version = flows.version)`
      )
      .pluck()
      .all()
  )
}

function inFile<T>(file: string, look: (db: Connection) => T): T {
  const db = new Database(file)
  try {
    return look(db)
  } finally {
    db.close()
  }
}
