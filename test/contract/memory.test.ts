import { setImmediate as nextTurn } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import { openMemory } from '../../adapters/storage/memory.js'
import { createStorage } from '../../adapters/storage/storage.js'
import { templates } from '../../schemas/templates.js'
import { createTenant } from '../support/stored-samples.js'
import { storageContract } from './storage-contract.js'

await storageContract(t, 'memory', async () => ({
  open: async () => openMemory(),
  dispose: async () => {},
  differences: { persistent: false }
}))

t.test('rows that were replaced are let go', async (t) => {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  const storage = createStorage(openMemory())
  t.teardown(() => storage.close())
  const tenant = await createTenant(storage)
  const keys = Array.from({ length: 1000 }, (_, n) => `t${n}`)
  const replaced: WeakRef<object>[] = []
  for (const id of keys) {
    const row = { id, name: 'old', description: '' }
    const changes = [{ op: 'insert', resource: templates, row }] as const
    const [inserted] = await storage.commit({ tenant, changes })
    replaced.push(new WeakRef(inserted))
  }
  for (const key of keys) {
    const changes = [{ op: 'update', resource: templates, key, set: { name: 'new' } }] as const
    await storage.commit({ tenant, changes })
  }
  await nextTurn()
  collect()
  const kept = replaced.filter((each) => each.deref() !== undefined).length
  // The last calls may still refer to theirs.
  t.ok(kept < 10, `${kept} of ${keys.length} are kept`)
})
