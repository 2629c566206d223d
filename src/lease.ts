import { StorageError } from '../adapters/storage/errors.js'
import { type Check, type Storage, SYSTEM } from '../adapters/storage/port.js'
import { leases } from '../schemas/leases.js'

/** A job that is this instance's, and no other's. */
export interface Lease {
  /**
   * Goes into each commit of the job, which is stored only while the job is still this instance's.
   * @throws StorageError of a lease, as the commit does, where another instance has taken over.
   */
  check(): Promise<Check<typeof leases>>
  /** Nobody takes the job again for so many milliseconds. */
  end(restMs: number): Promise<void>
}

export interface LeaseOptions {
  readonly storage: Storage
  readonly job: string
  /** How long the job usually rests, in milliseconds. */
  readonly restMs: number
  readonly now: () => Date
}

/** How long an instance may be silent before another takes over: longer than any commit takes. */
export const LEASE_MS = 60_000

/**
 * Takes a job, or tells in how many milliseconds to ask again. It is a row that each holder changes
 * at the version it has read: of two that do, the storage refuses one.
 *
 * @throws StorageError of a lease, where another instance took it at the same moment.
 */
export async function takeLease(options: LeaseOptions): Promise<Lease | number> {
  const { storage, job, restMs, now } = options

  async function write(expect: number | undefined, lifeMs: number): Promise<number> {
    const set = { expires_at: new Date(now().getTime() + lifeMs).toISOString() }
    const about = { resource: leases, key: job } as const
    const change =
      expect === undefined
        ? ({ op: 'insert', ...about, row: { id: job, ...set } } as const)
        : ({ op: 'update', ...about, expect, set } as const)
    const [row] = await storage.commit({ tenant: SYSTEM, changes: [change] })
    return row.version
  }

  const row = await storage.get({ resource: leases, tenant: SYSTEM }, job)
  const waitMs = row ? Date.parse(row.expires_at) - now().getTime() : 0
  // A time that is further away than anybody sets it comes from a clock that was wrong.
  if (waitMs > 0 && waitMs <= 2 * Math.max(restMs, LEASE_MS)) return waitMs

  let renewedAt = now().getTime()
  let version = await write(row?.version, LEASE_MS)
  return {
    async check() {
      const time = now().getTime()
      if (time - renewedAt > LEASE_MS / 3) {
        version = await write(version, LEASE_MS)
        renewedAt = time
      }
      return { op: 'check', resource: leases, key: job, expect: version }
    },

    async end(ms) {
      version = await write(version, ms)
    }
  }
}

/** Whether another instance has the job. */
export function isAboutLease(error: unknown): boolean {
  return error instanceof StorageError && error.resource === leases.name
}
