import t, { type Test } from 'tap'
import { StorageError } from '../../adapters/storage/errors.js'
import type { Storage, TenantId } from '../../adapters/storage/port.js'
import { uuid } from '../../adapters/uuid.js'
import { users } from '../../schemas/users.js'
import { createPrincipals } from '../../src/principals.js'
import { memory } from '../support/storages.js'
import { createTenant } from '../support/stored-samples.js'

/** A user, and principals that read from a storage whose answers can be held back. */
async function userWithPrincipals(t: Test) {
  const storage = await memory.open(t)
  const tenant = await createTenant(storage)
  const key = uuid()
  const row = { id: key, email: 'ada@example.com', name: 'Ada', role: 'admin' as const }
  await storage.commit({ tenant, changes: [{ op: 'insert', resource: users, row }] })
  let held = Promise.resolve()
  let reads = 0
  let isAway = false
  const slow: Storage = {
    ...storage,
    async get(from, id) {
      reads++
      if (isAway) throw new StorageError('unavailable')
      const found = await storage.get(from, id)
      await held
      return found
    }
  }
  let time = 1000
  return {
    key,
    principals: createPrincipals(slow, () => time),
    reads: () => reads,
    pass: (seconds: number) => {
      time += seconds * 1000
    },
    /** Answers come when the function that it returns is called. */
    holdBack(): () => void {
      let release = () => {}
      held = new Promise((resolve) => {
        release = resolve
      })
      return release
    },
    /** Every read fails meanwhile. */
    async away(during: () => Promise<unknown>) {
      isAway = true
      await during()
      isAway = false
    },
    demote: (): Promise<unknown> => demote(storage, tenant, key)
  }
}

function demote(storage: Storage, tenant: TenantId, key: string) {
  const set = { role: 'viewer' as const }
  return storage.commit({ tenant, changes: [{ op: 'update', resource: users, key, set }] })
}

t.test('a principal is given at once when it is known, for a minute', async (t) => {
  const { key, principals, reads, pass } = await userWithPrincipals(t)
  t.match(await principals.get(key), { role: 'admin' })
  const known = reads()
  pass(59)
  t.match(principals.get(key), { role: 'admin' }, 'and no promise of one')
  t.equal(reads(), known)
  pass(2)
  await principals.get(key)
  t.ok(reads() > known, 'read again')
})

t.test('the minute begins with the read, however long that takes', async (t) => {
  const { key, principals, reads, pass, holdBack } = await userWithPrincipals(t)
  const release = holdBack()
  const reading = principals.get(key)
  pass(50)
  release()
  await reading
  const known = reads()
  pass(11)
  await principals.get(key)
  t.ok(reads() > known)
})

t.test('what was read before a change is not remembered after it', async (t) => {
  const { key, principals, demote, holdBack } = await userWithPrincipals(t)
  const release = holdBack()
  const before = principals.get(key)
  await demote()
  principals.forget(key)
  release()
  t.match(await before, { role: 'admin' })
  t.match(await principals.get(key), { role: 'viewer' })
})

t.test('of somebody unknown nothing is remembered', async (t) => {
  const { principals, reads } = await userWithPrincipals(t)
  t.equal(await principals.get(uuid()), null)
  const stranger = uuid()
  t.equal(await principals.get(stranger), null)
  const known = reads()
  t.equal(await principals.get(stranger), null)
  t.ok(reads() > known)
})

t.test('a read that failed is not remembered, either', async (t) => {
  const { key, principals, away } = await userWithPrincipals(t)
  await away(() => t.rejects(principals.get(key) as Promise<unknown>, { code: 'unavailable' }))
  t.match(await principals.get(key), { role: 'admin' })
})
