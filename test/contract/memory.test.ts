import t from 'tap'
import { openMemory } from '../../adapters/storage/memory.js'
import { storageContract } from './storage-contract.js'

await storageContract(t, 'memory', async () => ({
  open: async () => openMemory(),
  dispose: async () => {},
  differences: { persistent: false }
}))
