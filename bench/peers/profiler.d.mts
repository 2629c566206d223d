import type { Profiler } from 'node:inspector'

export declare const SAMPLING_MICROSECONDS: number
export declare function profileWhile(work: () => Promise<unknown>): Promise<Profiler.Profile>
