import t from 'tap'
import type { Driver } from '../../adapters/storage/driver.js'
import { openMemory } from '../../adapters/storage/memory.js'
import { brokenDrivers } from '../support/broken-drivers.js'
import type { PlaceFactory, Rule } from './contract-case.js'
import { runCase, storageCases } from './storage-contract.js'

/** Random choices do not matter to whether a rule is noticed. */
const seed = 1

function places(wrap: (sound: Driver) => Driver): PlaceFactory {
  return async () => ({
    open: async () => wrap(openMemory()),
    dispose: async () => {},
    differences: { persistent: false }
  })
}

/** The cases of a rule that fail. */
async function failures(rule: Rule, factory: PlaceFactory): Promise<string[]> {
  const failed: string[] = []
  for (const each of storageCases.filter((one) => one.rule === rule))
    await runCase(each, factory, seed).catch(() => failed.push(each.name))
  return failed
}

t.test('a driver that wraps a sound one passes every case', async (t) => {
  for (const each of storageCases)
    await t.resolves(
      runCase(
        each,
        places((sound) => ({ ...sound })),
        seed
      ),
      each.name
    )
})

for (const { breaks, how, wrap } of brokenDrivers)
  t.test(`a driver that ${how} fails a case of "${breaks}"`, async (t) => {
    const failed = await failures(breaks, places(wrap))
    t.not(failed.length, 0, failed.join('; '))
  })

t.test('a storage that keeps what it says it loses fails', async (t) => {
  const kept: PlaceFactory = async () => {
    const sound = openMemory()
    const driver = { ...sound, close: async () => {} }
    return {
      open: async () => driver,
      dispose: () => sound.close(),
      differences: { persistent: false }
    }
  }
  t.not((await failures('persistence is as stated', kept)).length, 0)
})

t.test('a storage that loses what it does not say it loses fails', async (t) => {
  const lost: PlaceFactory = async () => ({
    open: async () => openMemory(),
    dispose: async () => {}
  })
  t.not((await failures('persistence is as stated', lost)).length, 0)
})

t.test('there is a broken driver for every rule', async (t) => {
  const rules = new Set(storageCases.map(({ rule }) => rule))
  const broken = new Set(brokenDrivers.map(({ breaks }) => breaks))
  t.strictSame([...broken].sort(), [...rules].sort())
})
