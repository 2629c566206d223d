import { hash } from 'node:crypto'
import { StorageError } from '../../adapters/storage/errors.js'
import type { Change, Storage, Stored, TenantId } from '../../adapters/storage/port.js'
import { uuid } from '../../adapters/uuid.js'
import type { LlmUsageTotal } from '../../schemas/llm.js'
import { llmUsage } from '../../schemas/llm-usage.js'
import { rowsOfPages } from '../all-rows.js'
import { DAY_MS } from '../durations.js'
import { refuseValue } from '../problems.js'
import type { Store } from '../store.js'

/** What one call adds to the totals. */
export interface UsedCall {
  readonly tenant: TenantId
  readonly user: string
  readonly model: string
  readonly failed: boolean
  readonly promptTokens: number
  readonly completionTokens: number
}

export interface Usage {
  /** Counts in memory: a call costs no commit. */
  add(call: UsedCall): void
  /** Writes the totals that have changed. What cannot be written is written with the next. */
  flush(): Promise<void>
  close(): Promise<void>
}

/** Which totals of a tenant are wanted. Days are inclusive, as `2026-01-31`. */
export interface UsagePeriod {
  readonly since: string
  readonly until: string
  readonly user_id?: string
  readonly model?: string
}

interface Totals {
  readonly id: string
  readonly tenant: TenantId
  readonly day: string
  readonly user_id: string
  readonly model: string
  calls: number
  errors: number
  prompt_tokens: number
  completion_tokens: number
  /** Whether the storage has the row. */
  stored: boolean
  /** Whether it has more to it than the storage knows. */
  changed: boolean
}

/** How often totals are written; also how old another instance's may be in a report. */
const FLUSH_MS = 10_000
/**
 * Names of models come from requests: one who makes them up must not fill the table. Beyond this
 * many for a user and day, they are counted together.
 */
const MOST_MODELS = 100
/** For a tenant and day, over its users: an admin makes as many API keys, which count as users. */
const MOST_MODELS_OF_TENANT = 2000
/** Of each of them all the same, whatever the others ask for. */
const LEAST_MODELS = 10
const OTHER_MODELS = 'other'
/** Totals in one report, which is made in memory. */
const MOST_REPORTED = 10_000
/** Changes in one commit. */
const MOST_CHANGES = 200

export interface UsageOptions {
  readonly storage: Storage
  readonly warn: (error: unknown, message: string) => void
  readonly now?: () => Date
}

/** Running totals of this process, each in a row that no other process writes. */
export function createUsage({ storage, warn, now = () => new Date() }: UsageOptions): Usage {
  const instance = uuid()
  let totals = new Map<string, Totals>()
  const models = new Map<string, Set<string>>()
  const modelsOfTenant = new Map<TenantId, number>()
  let current = { number: 0, day: '' }
  let flushing: Promise<void> = Promise.resolve()
  const timer = setInterval(() => void flush(), FLUSH_MS).unref()

  /** Looked up at every call, so it is written out only when it changes. */
  function today(): string {
    const at = now()
    const number = Math.floor(at.getTime() / DAY_MS)
    // Never back to one whose totals may be written and forgotten, where a clock is put right about midnight.
    if (number > current.number) {
      current = { number, day: dayOf(at) }
      models.clear()
      modelsOfTenant.clear()
    }
    return current.day
  }

  function totalsOf(call: UsedCall): Totals {
    const { tenant, user } = call
    const day = today()
    const known = knownModel(call)
    const name = `${tenant} ${day} ${user} ${known}`
    const found = totals.get(name)
    if (found) return found
    const created: Totals = {
      id: [day, user, instance, digest(known)].join('.'),
      tenant,
      day,
      user_id: user,
      model: known,
      calls: 0,
      errors: 0,
      prompt_tokens: 0,
      completion_tokens: 0,
      stored: false,
      changed: false
    }
    totals.set(name, created)
    return created
  }

  function knownModel({ tenant, user, model }: UsedCall): string {
    const owner = `${tenant} ${user}`
    const known = models.get(owner) ?? new Set<string>()
    if (known.has(model)) return model
    const ofTenant = modelsOfTenant.get(tenant) ?? 0
    const most = ofTenant < MOST_MODELS_OF_TENANT ? MOST_MODELS : LEAST_MODELS
    if (known.size >= most) return OTHER_MODELS
    models.set(owner, known.add(model))
    modelsOfTenant.set(tenant, ofTenant + 1)
    return model
  }

  function changeOf(row: Totals): Change {
    const { id: key, calls, errors, prompt_tokens, completion_tokens } = row
    const set = { calls, errors, prompt_tokens, completion_tokens }
    if (row.stored) return { op: 'update', resource: llmUsage, key, set }
    const { day, user_id, model } = row
    const created = { id: key, day: midnight(day), user_id, model, instance, ...set }
    return { op: 'insert', resource: llmUsage, row: created }
  }

  /** Totals and not increments are written, so writing them twice does no harm. */
  async function write(rows: readonly Totals[]): Promise<void> {
    const [first] = rows
    if (!first) return
    const written = rows.map(changeOf)
    // What is added from here on makes the row changed again.
    for (const row of rows) row.changed = false
    try {
      await storage.commit({ tenant: first.tenant, changes: written })
      for (const row of rows) row.stored = true
    } catch (error) {
      for (const row of rows) row.changed = true
      if (!learn(rows, error)) throw error
      await write(rows.filter(({ changed }) => changed))
    }
  }

  /** Whether the failure tells what to do: the rows are then as the storage has them. */
  function learn(rows: readonly Totals[], error: unknown): boolean {
    if (!(error instanceof StorageError)) return false
    const row = rows.find(({ id }) => id === error.key)
    if (error.code === 'conflict' && row && !row.stored) {
      // An earlier commit was stored although no answer came.
      row.stored = true
      return true
    }
    if (error.code === 'not_found' && row?.stored) {
      row.stored = false
      return true
    }
    // The tenant is gone, and its totals with it.
    if (error.code === 'reference_missing') for (const each of rows) each.changed = false
    return error.code === 'reference_missing'
  }

  async function flushNow(): Promise<void> {
    const changed = new Map<TenantId, Totals[]>()
    for (const row of totals.values()) {
      if (!row.changed) continue
      const rows = changed.get(row.tenant)
      if (rows) rows.push(row)
      else changed.set(row.tenant, [row])
    }
    for (const rows of changed.values())
      for (let at = 0; at < rows.length; at += MOST_CHANGES)
        try {
          await write(rows.slice(at, at + MOST_CHANGES))
        } catch (error) {
          warn(error, 'LLM usage could not be written; it will be with the next')
        }
    const kept = [...totals].filter(([, row]) => row.changed || row.day === current.day)
    totals = new Map(kept)
  }

  function flush(): Promise<void> {
    flushing = flushing.then(flushNow)
    return flushing
  }

  return {
    add(call) {
      const row = totalsOf(call)
      row.calls++
      if (call.failed) row.errors++
      row.prompt_tokens += call.promptTokens
      row.completion_tokens += call.completionTokens
      row.changed = true
    },
    flush,
    async close() {
      clearInterval(timer)
      await flush()
    }
  }
}

/** Totals of whole days. */
export interface UsageReport {
  readonly totals: readonly LlmUsageTotal[]
  /** The newest day whose totals did not fit, or null where all did. */
  readonly next: string | null
}

/**
 * The totals of a tenant over all instances, newest day first, for as many days as fit.
 *
 * @throws ApiError `validation_failed` where one day alone has too many.
 */
export async function reportUsage(store: Store, period: UsagePeriod): Promise<UsageReport> {
  const totals: LlmUsageTotal[] = []
  const sums = new Map<string, LlmUsageTotal>()
  let current: string | undefined
  function endDay(): void {
    totals.push(...[...sums.values()].sort(byModelUser))
    sums.clear()
  }
  for await (const row of rowsOf(store, period)) {
    const day = row.day.slice(0, 10)
    if (day !== current) {
      endDay()
      current = day
    }
    addTo(sums, day, row)
    if (totals.length + sums.size > MOST_REPORTED) {
      if (totals.length === 0) refuseDay(day)
      return { totals, next: day }
    }
  }
  endDay()
  return { totals, next: null }
}

/** Newest day first. */
function rowsOf(store: Store, { since, until, ...filter }: UsagePeriod) {
  const period = { since: midnight(since), until: dayAfter(until) }
  return rowsOfPages((cursor) =>
    store.list(llmUsage, { filter, ...period, limit: 1000, ...cursor })
  )
}

function addTo(sums: Map<string, LlmUsageTotal>, day: string, row: Stored<typeof llmUsage>): void {
  const { model, user_id } = row
  const key = [model, user_id].join(' ')
  const sum = sums.get(key)
  sums.set(key, {
    day,
    model,
    user_id,
    calls: row.calls + (sum?.calls ?? 0),
    errors: row.errors + (sum?.errors ?? 0),
    prompt_tokens: row.prompt_tokens + (sum?.prompt_tokens ?? 0),
    completion_tokens: row.completion_tokens + (sum?.completion_tokens ?? 0)
  })
}

function refuseDay(day: string): never {
  const detail = `leads to ${day}, which alone has more than ${MOST_REPORTED} totals: ask for one user or model, or for the days before it`
  refuseValue('query', '/until', detail)
}

function byModelUser(a: LlmUsageTotal, b: LlmUsageTotal): number {
  return compare(a.model, b.model) || compare(a.user_id, b.user_id)
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}

/** The day of an instant in UTC, as `2026-01-31`. */
export function dayOf(at: Date): string {
  return at.toISOString().slice(0, 10)
}

function midnight(day: string): string {
  return `${day}T00:00:00.000Z`
}

function dayAfter(day: string): string {
  return new Date(Date.parse(midnight(day)) + DAY_MS).toISOString()
}

function digest(text: string): string {
  return hash('sha256', text, 'hex').slice(0, 32)
}
