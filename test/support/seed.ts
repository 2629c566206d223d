import type { TenantId } from '../../adapters/storage/port.js'
import { runProgram } from './server.js'

/** The tenant of the demo data. */
export const demoTenant = '019b76da-a800-7000-8000-000000000000' as TenantId

/** Makes the demo data from a folder with these variables and no others, and returns what was written. */
export async function runSeed(
  folder: string,
  env: Readonly<Record<string, string>>
): Promise<string> {
  const { output } = await runProgram('seed', folder, env)
  return output
}
