import type { Driver } from '../../adapters/storage/driver.js'
import type { Storage } from '../../adapters/storage/port.js'

/** What a case may rely on, in a few words. The test of the suite breaks them one by one. */
export type Rule =
  | 'values are kept'
  | 'null is kept'
  | 'times are normal'
  | 'stamps are set'
  | 'lists are sorted'
  | 'ties go by key'
  | 'pages are stable'
  | 'pages are bounded'
  | 'filters hold'
  | 'periods hold'
  | 'cursors are bound'
  | 'counts are exact'
  | 'unique is unique'
  | 'references exist'
  | 'targets stay'
  | 'deletes cascade'
  | 'missing is told'
  | 'expect holds'
  | 'check holds'
  | 'commits are whole'
  | 'audit goes along'
  | 'tenants are apart'
  | 'tenants are apart in writes'
  | 'crossing sees all'
  | 'system has its own'
  | 'versions grow'
  | 'a commit has one version'
  | 'closed is closed'
  | 'persistence is as stated'
  | 'rows are not shared'

/** Where a storage's data live, from nothing to gone. Each case gets a new one. */
export interface StoragePlace {
  /** A driver on this place's data: empty at first, and what was left when opened again. */
  open(): Promise<Driver>
  /** Removes the data. All drivers are closed by then. */
  dispose(): Promise<void>
  /** What a storage may differ in. The suite asserts each difference. */
  readonly differences?: {
    /** Whether data outlive a close. True by default. */
    readonly persistent?: boolean
  }
}

/** Makes an empty place. What is expensive, such as a server, is shared by the caller's closure. */
export type PlaceFactory = () => Promise<StoragePlace>

export interface Context {
  readonly persistent: boolean
  /** What random choices of the case come from; a failure names it. */
  readonly seed: number
  open(): Promise<Storage>
  /** Closes the storage and opens another on the same data. */
  reopen(storage: Storage): Promise<Storage>
}

export interface StorageCase {
  readonly name: string
  readonly rule: Rule
  run(context: Context): Promise<void>
}
