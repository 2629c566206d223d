import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyBaseLogger } from 'fastify'
import { isStorageError } from '../adapters/storage/errors.js'
import {
  ACROSS_TENANTS,
  type Change,
  type Storage,
  type Stored,
  type TenantId
} from '../adapters/storage/port.js'
import { audit } from '../schemas/audit.js'
import type { Environment } from '../schemas/environment.js'
import { executionStatuses, executions, transitions } from '../schemas/executions.js'
import { idempotencyKeys } from '../schemas/idempotency-keys.js'
import { llmUsage } from '../schemas/llm-usage.js'
import type { AnyResource } from '../schemas/resource.js'
import { sessions } from '../schemas/sessions.js'
import { tenants } from '../schemas/tenants.js'
import { allRows } from './all-rows.js'
import { auditEntry, bySystem } from './audit-entry.js'
import { DAY_MS } from './durations.js'
import { isAboutLease, LEASE_MS, type Lease, takeLease } from './lease.js'

export interface RetentionOptions {
  readonly storage: Storage
  readonly env: Pick<
    Environment,
    | 'RETENTION_AUDIT_DAYS'
    | 'RETENTION_EXECUTIONS_DAYS'
    | 'RETENTION_LLM_USAGE_DAYS'
    | 'RETENTION_INTERVAL_SECONDS'
    | 'RETENTION_BATCH_SIZE'
  >
  readonly log: Pick<FastifyBaseLogger, 'info' | 'warn'>
  readonly now?: () => Date
}

/** Rows that have had their time: those before `until` in their lists, and among these what is over. */
interface Rule {
  readonly resource: AnyResource
  readonly until: string
  readonly filter?: Readonly<Record<string, unknown>>
  readonly isOver?: (row: Stored<AnyResource>) => boolean
}

/** Others may change the rows of a batch while it is read. What they go on changing is left. */
const MOST_TRIES = 3
/** Tenants after one another whose pruning may fail before that of all is given up for now. */
const MOST_FAILURES = 3
/** Tenants that the log names, of those whose pruning failed in a run. */
const MOST_NAMED = 10
const TRIED_AGAIN = 'failed, and is tried again in a minute'

/**
 * Prunes now and then, until it is stopped. It never throws: what fails is logged, and tried again.
 */
export function startRetention(options: RetentionOptions): { stop(): Promise<void> } {
  const stopping = new AbortController()
  const { signal } = stopping

  async function run(): Promise<void> {
    while (!signal.aborted) {
      const waitMs = await prune(options, signal)
      await sleep(waitMs, undefined, { signal, ref: false }).catch(() => {})
    }
  }

  const ended = run()
  return {
    stop() {
      stopping.abort()
      return ended
    }
  }
}

/**
 * Deletes what has had its time, in every tenant and in small batches, unless another instance
 * does; then gives the space back. Tells in how many milliseconds to ask again.
 */
export async function prune(
  { storage, env, log, now = () => new Date() }: RetentionOptions,
  signal: AbortSignal = new AbortController().signal
): Promise<number> {
  const restMs = env.RETENTION_INTERVAL_SECONDS * 1000
  const pruned: Record<string, number> = {}
  const startedAt = performance.now()
  try {
    const lease = await takeLease({ storage, job: 'retention', restMs, now })
    if (typeof lease === 'number') return lease
    const rules = rulesOf(env, now())
    const job = { storage, lease, limit: env.RETENTION_BATCH_SIZE, pruned, signal }
    let failed = 0
    let inARow = 0
    for await (const { id } of allRows(storage, { resource: tenants, tenant: ACROSS_TENANTS })) {
      try {
        for (const rule of rules) if (!signal.aborted) await pruneRows(job, id as TenantId, rule)
        inARow = 0
      } catch (error) {
        // What is wrong with one tenant's rows is no matter of the others', but more is no accident.
        if (isAboutLease(error)) throw error
        if (++failed <= MOST_NAMED)
          log.warn({ err: error, tenant: id }, `pruning of a tenant ${TRIED_AGAIN}`)
        if (++inARow === MOST_FAILURES) throw error
      }
      if (signal.aborted) break
    }
    await compact(job)
    if (failed > MOST_NAMED) log.warn({ tenants: failed }, `pruning of many tenants ${TRIED_AGAIN}`)
    if (failed) return LEASE_MS
    await lease.end(signal.aborted ? 0 : restMs)
    return restMs
  } catch (error) {
    if (isAboutLease(error)) log.info('another instance goes on with the pruning')
    else log.warn({ err: error }, `pruning ${TRIED_AGAIN}`)
    return LEASE_MS
  } finally {
    const ms = Math.round(performance.now() - startedAt)
    if (Object.keys(pruned).length) log.info({ pruned, ms }, 'old rows are pruned')
  }
}

function rulesOf(env: RetentionOptions['env'], now: Date): Rule[] {
  const ago = (days: number) => new Date(now.getTime() - days * DAY_MS).toISOString()
  const rules: Rule[] = [
    { resource: idempotencyKeys, until: now.toISOString() },
    { resource: sessions, until: now.toISOString() }
  ]
  if (env.RETENTION_AUDIT_DAYS)
    rules.push({ resource: audit, until: ago(env.RETENTION_AUDIT_DAYS) })
  if (env.RETENTION_EXECUTIONS_DAYS) {
    const until = ago(env.RETENTION_EXECUTIONS_DAYS)
    // Their lists are by creation, which comes first: what finished later is passed over.
    const isOver = (row: Stored<AnyResource>) => (row.finished_at ?? row.created_at) < until
    for (const status of executionStatuses)
      if (transitions[status].length === 0)
        rules.push({ resource: executions, until, filter: { status }, isOver })
  }
  // A day's totals have the time at which it began.
  if (env.RETENTION_LLM_USAGE_DAYS)
    rules.push({ resource: llmUsage, until: ago(env.RETENTION_LLM_USAGE_DAYS + 1) })
  return rules
}

interface Job {
  readonly storage: Storage
  readonly lease: Lease
  readonly limit: number
  /** How many rows of each resource are gone. */
  readonly pruned: Record<string, number>
  readonly signal: AbortSignal
}

async function pruneRows(job: Job, tenant: TenantId, rule: Rule): Promise<void> {
  let cursor: string | null = null
  do {
    const startedAt = performance.now()
    cursor = await pruneBatch(job, tenant, rule, cursor)
    await restFor(startedAt, job.signal)
  } while (cursor && !job.signal.aborted)
}

/** Returns where the next batch starts. */
async function pruneBatch(
  job: Job,
  tenant: TenantId,
  rule: Rule,
  cursor: string | null,
  tries = MOST_TRIES
): Promise<string | null> {
  const { storage, lease, limit, pruned } = job
  const { resource, until, filter = {}, isOver = () => true } = rule
  const check = await lease.check()
  const { rows, next } = await storage.list(
    { resource, tenant },
    { filter, until, order: 'asc', limit, ...(cursor ? { cursor } : {}) }
  )
  const over = rows.filter(isOver)
  if (over.length === 0) return next
  const changes: Change[] = [
    check,
    ...over.map((row) => deletion(resource, row)),
    ...(resource.audited ? [summary(resource, over.length, until)] : [])
  ]
  try {
    await storage.commit({ tenant, changes })
  } catch (error) {
    if (isAboutLease(error) || !isChanged(error)) throw error
    return tries > 1 ? pruneBatch(job, tenant, rule, cursor, tries - 1) : next
  }
  pruned[resource.name] = (pruned[resource.name] ?? 0) + over.length
  return next
}

async function compact({ storage, lease, signal }: Job): Promise<void> {
  for (let more = true; more && !signal.aborted; ) {
    const startedAt = performance.now()
    await lease.check()
    more = await storage.compact()
    await restFor(startedAt, signal)
  }
}

/** As long as the work took, so that requests have at least half of the storage. */
async function restFor(startedAt: number, signal: AbortSignal): Promise<void> {
  await sleep(performance.now() - startedAt, undefined, { signal }).catch(() => {})
}

function deletion(resource: AnyResource, row: Stored<AnyResource>): Change {
  return { op: 'delete', resource, key: row[resource.key], expect: row.version }
}

/** One entry for all of them: an entry for each would keep more than was pruned. */
function summary(resource: AnyResource, count: number, until: string): Change {
  return auditEntry(bySystem, new Date(), 'prune', resource, `${count} before ${until}`)
}

function isChanged(error: unknown): boolean {
  return isStorageError(error, 'stale', 'not_found')
}
