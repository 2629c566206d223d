import assert from 'node:assert/strict'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { ACROSS_TENANTS } from '../../../adapters/storage/port.js'
import { tenants } from '../../../schemas/tenants.js'
import { sampleInserts } from '../../support/sample-rows.js'
import {
  assertFails,
  baseOf,
  createTenant,
  FIRST,
  flows,
  listKeys,
  owned,
  rowsOf,
  seed,
  templates
} from '../../support/stored-samples.js'
import type { StorageCase } from '../contract-case.js'

/** Closing, and opening again. */
export const lifetimeCases: readonly StorageCase[] = [
  {
    name: 'every verb says so, and closing again is fine',
    rule: 'closed is closed',
    async run({ open }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      const row = await seed(storage, flows, tenant, { n: FIRST })
      await Promise.all([storage.close(), storage.close()])
      await storage.close()
      await assertFails(storage.get({ resource: flows, tenant }, row.id as string), 'closed', 'get')
      const list = storage.list({ resource: flows, tenant }, { limit: 1 })
      await assertFails(list, 'closed', 'list')
      const commit = storage.commit({ tenant, changes: sampleInserts(flows, FIRST + 1) })
      await assertFails(commit, 'closed', 'commit')
      await assertFails(storage.commit({ tenant, changes: [] }), 'closed', 'an empty commit')
      await assertFails(storage.ping(), 'closed', 'ping')
      await assertFails(storage.compact(), 'closed', 'compact')
    }
  },
  {
    name: 'commits under way are finished, not dropped',
    rule: 'closed is closed',
    async run({ open, persistent }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      const commits: Promise<unknown[]>[] = []
      // Some have just begun when it closes, others have been sent.
      for (const n of [1, 2, 3, 4]) {
        await nextTurn()
        commits.push(storage.commit({ tenant, changes: sampleInserts(templates, n) }))
      }
      await storage.close()
      for (const rows of await Promise.all(commits)) assert.equal(rows.length, 1)
      if (!persistent) return
      const again = await open()
      assert.equal((await listKeys(again, templates, tenant)).length, 4)
    }
  },
  {
    name: 'a storage that is opened again has what it had, or nothing where it says so',
    rule: 'persistence is as stated',
    async run({ open, reopen, persistent }) {
      const storage = await open()
      const tenant = await createTenant(storage)
      for (const resource of owned) await seed(storage, resource, tenant, { n: baseOf(resource) })
      const status = await storage.ping()
      assert.equal(status.migration !== null, persistent, 'what is kept has a schema')
      const before = await rowsOf(storage, tenant)
      const again = await reopen(storage)
      assert.deepEqual(await again.ping(), status)
      if (persistent) {
        assert.deepEqual(await rowsOf(again, tenant), before)
        const row = await seed(again, flows, tenant, { n: FIRST + 99 })
        const others = Object.values(before).flat()
        for (const { version } of others)
          assert((row.version as number) > (version as number), 'versions go on')
      } else assert.deepEqual(await listKeys(again, tenants, ACROSS_TENANTS), [])
    }
  }
]
