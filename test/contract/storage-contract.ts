import type { Test } from 'tap'
import type { Storage } from '../../adapters/storage/port.js'
import { createStorage } from '../../adapters/storage/storage.js'
import { commitCases } from './cases/commit-cases.js'
import { constraintCases } from './cases/constraint-cases.js'
import { lifetimeCases } from './cases/lifetime-cases.js'
import { listCases } from './cases/list-cases.js'
import { tenantCases } from './cases/tenant-cases.js'
import { valueCases } from './cases/value-cases.js'
import type { PlaceFactory, StorageCase } from './contract-case.js'

export type { PlaceFactory, StoragePlace } from './contract-case.js'

/** What every storage does alike. A new storage calls `storageContract`; a new rule goes here. */
export const storageCases: readonly StorageCase[] = [
  ...valueCases,
  ...listCases,
  ...constraintCases,
  ...commitCases,
  ...tenantCases,
  ...lifetimeCases
]

/** Runs every case on a place of its own. */
export async function storageContract(t: Test, name: string, factory: PlaceFactory): Promise<void> {
  await t.test(`${name} keeps the storage contract`, async (t) => {
    for (const each of storageCases)
      await t.test(`${each.rule}: ${each.name}`, async () => runCase(each, factory))
  })
}

/** @throws what the case throws, with the seed of its random choices. */
export async function runCase(
  { run }: StorageCase,
  factory: PlaceFactory,
  seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31))
): Promise<void> {
  const place = await factory()
  const opened: Storage[] = []
  async function open() {
    const storage = createStorage(await place.open())
    opened.push(storage)
    return storage
  }
  try {
    await run({
      persistent: place.differences?.persistent ?? true,
      seed,
      open,
      async reopen(storage) {
        await storage.close()
        return open()
      }
    })
  } catch (error) {
    if (error instanceof Error) error.message += ` (SEED=${seed})`
    throw error
  } finally {
    for (const storage of opened) await storage.close().catch(() => {})
    await place.dispose()
  }
}
