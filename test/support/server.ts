import { fileURLToPath } from 'node:url'
import { packageFile } from '../../adapters/package-files.js'
import { type Child, startChild } from './child-process.js'
import type { Teardown } from './storages.js'

type Program = 'server' | 'migrate' | 'seed' | 'keys-command' | 'users-command'

/** The path of a program of the build, which tap makes before the first test. */
export function builtProgram(name: Program): string {
  return fileURLToPath(packageFile(`dist/src/${name}.js`))
}

/** How a server is started, where not by Node.js alone. */
export interface Starting {
  readonly args?: readonly string[]
  /** What Node.js itself is told. */
  readonly nodeOptions?: readonly string[]
  /** A program, and its arguments, that becomes the server. */
  readonly under?: readonly string[]
}

/**
 * Starts the real server in a folder of its own, where no `.env` of ours is, on a free port, with
 * nothing in its environment but what is given. Ended with the test.
 */
export function startServer(
  t: Teardown,
  folder: string,
  env: Readonly<Record<string, string>> = {},
  { args = [], nodeOptions = [], under = [] }: Starting = {}
): Child {
  const { PATH = '' } = process.env
  const node = [process.execPath, ...nodeOptions, builtProgram('server'), ...args]
  const [command, ...rest] = [...under, ...node] as [string, ...string[]]
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

/**
 * Runs a program of the build to its end, in a folder with these variables and no others.
 * @param input what is on its standard input; nothing by default.
 */
export async function runProgram(
  name: Program,
  folder: string,
  env: Readonly<Record<string, string>>,
  args: readonly string[] = [],
  input?: string | Buffer
): Promise<{ code: number | null; output: string }> {
  const { PATH = '' } = process.env
  const child = startChild(process.execPath, [builtProgram(name), ...args], {
    cwd: folder,
    env: { PATH, ...env },
    ...(input === undefined ? {} : { input })
  })
  const code = await child.ended()
  return { code, output: child.output() }
}

/** Waits until the server listens, and returns the address of its API. */
export async function addressOf(child: Child): Promise<string> {
  await child.wrote('/api/docs\n')
  const [, address] = /(http:\/\/\S+\/api)\/docs/.exec(child.output()) ?? []
  return address as string
}
