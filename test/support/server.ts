import { packageFile } from '../../adapters/package-files.js'
import { type Child, runChild, startChild } from './child-process.js'
import type { Teardown } from './storages.js'

const tsx = import.meta.resolve('tsx')
const server = packageFile('src/server.ts').pathname

/**
 * Starts the real server in a folder of its own, where no `.env` of ours is, on a free port, with
 * nothing in its environment but what is given. Ended with the test.
 * @param nodeOptions what Node.js itself is told, beside what makes it read TypeScript.
 */
export function startServer(
  t: Teardown,
  folder: string,
  env: Readonly<Record<string, string>> = {},
  args: readonly string[] = [],
  nodeOptions: readonly string[] = []
): Child {
  return startProgram(t, folder, env, ['--import', tsx, ...nodeOptions, server, ...args])
}

/**
 * The same from the build, which starts faster: for tests that start it many times.
 * @param under a program, and its arguments, that becomes the server.
 */
export function startBuiltServer(
  t: Teardown,
  folder: string,
  env: Readonly<Record<string, string>> = {},
  under: readonly string[] = []
): Child {
  return startProgram(t, folder, env, [packageFile('dist/src/server.js').pathname], under)
}

/** Brings the build up to the sources. */
export async function buildServer(): Promise<void> {
  const tsc = packageFile('node_modules/typescript/bin/tsc').pathname
  await runChild(process.execPath, [tsc, '-p', packageFile('src').pathname])
}

function startProgram(
  t: Teardown,
  folder: string,
  env: Readonly<Record<string, string>>,
  args: readonly string[],
  under: readonly string[] = []
): Child {
  const { PATH = '' } = process.env
  const [command, ...rest] = [...under, process.execPath, ...args] as [string, ...string[]]
  const child = startChild(command, rest, {
    cwd: folder,
    // A slow machine is no failure.
    env: { PATH, PORT: '0', OVERLOAD_EVENT_LOOP_DELAY_MS: '0', ...env }
  })
  t.teardown(async () => {
    child.signal('SIGTERM')
    await child.ended()
  })
  return child
}

/** Waits until the server listens, and returns the address of its API. */
export async function addressOf(child: Child): Promise<string> {
  await child.wrote('/api/docs\n')
  const [, address] = /(http:\/\/\S+\/api)\/docs/.exec(child.output()) ?? []
  return address as string
}
