import type { TenantId } from '../../adapters/storage/port.js'
import { startChild } from './child-process.js'
import { builtProgram } from './server.js'

/** The tenant of the demo data. */
export const demoTenant = '019b76da-a800-7000-8000-000000000000' as TenantId

/** Runs the program that makes the demo data in a folder with these variables and no others, and returns what it wrote. */
export async function runSeed(
  folder: string,
  env: Readonly<Record<string, string>>
): Promise<string> {
  const { PATH = '' } = process.env
  const child = startChild(process.execPath, [builtProgram('seed')], {
    cwd: folder,
    env: { PATH, ...env }
  })
  await child.ended()
  return child.output()
}
