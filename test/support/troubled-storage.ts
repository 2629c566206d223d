import { StorageError } from '../../adapters/storage/errors.js'
import type { Storage } from '../../adapters/storage/port.js'

/** A storage that works until it is told not to. */
export interface TroubledStorage {
  readonly storage: Storage
  /** Has the given verbs take the place of the storage's own while `during` runs. */
  trouble<T>(verbs: Partial<Storage>, during: () => Promise<T>): Promise<T>
}

export function troubledStorage(storage: Storage): TroubledStorage {
  let troubled: Partial<Storage> = {}
  return {
    storage: new Proxy(storage, {
      get: (target, name) => Reflect.get(name in troubled ? troubled : target, name)
    }),

    async trouble(verbs, during) {
      troubled = verbs
      try {
        return await during()
      } finally {
        troubled = {}
      }
    }
  }
}

/** Every verb fails, and even asking for the kind does. */
export function broken(error: () => Error): Partial<Storage> {
  const fail = async (): Promise<never> => {
    throw error()
  }
  return {
    get kind(): string {
      throw error()
    },
    get: fail,
    list: fail,
    commit: fail,
    ping: fail
  }
}

/** Has something else be done between what a request reads and what it commits first. */
export function overtaken(storage: Storage, meanwhile: () => Promise<unknown>): Partial<Storage> {
  let came = false
  const commit = async (...changes: Parameters<Storage['commit']>) => {
    if (!came) {
      came = true
      await meanwhile()
    }
    return storage.commit(...changes)
  }
  return { commit: commit as Storage['commit'] }
}

/** Is gone as soon as a commit is stored and answered. */
export function goneAfterCommit(storage: Storage): Partial<Storage> {
  let isGone = false
  const unlessGone = <Given extends unknown[], Found>(ask: (...given: Given) => Promise<Found>) => {
    return async (...given: Given): Promise<Found> => {
      if (isGone) throw new StorageError('unavailable')
      return ask(...given)
    }
  }
  const commit = async (...changes: Parameters<Storage['commit']>) => {
    const rows = await storage.commit(...changes)
    isGone = true
    return rows
  }
  return {
    get: unlessGone(storage.get) as Storage['get'],
    list: unlessGone(storage.list) as Storage['list'],
    commit: unlessGone(commit) as Storage['commit']
  }
}

/** Commits, and what says so gets lost. */
export function unanswered(storage: Storage): Partial<Storage> {
  const commit = async (...changes: Parameters<Storage['commit']>) => {
    await storage.commit(...changes)
    throw new StorageError('outcome_unknown')
  }
  return { commit: commit as Storage['commit'] }
}

/** Reads work, and every commit fails. */
export function brokenCommit(...error: ConstructorParameters<typeof StorageError>) {
  return {
    commit: async (): Promise<never> => {
      throw new StorageError(...error)
    }
  } satisfies Partial<Storage>
}
