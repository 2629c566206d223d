import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process'
import { once } from 'node:events'

/** A program that a test started, and how to end it. */
export interface Child {
  readonly pid: number
  /** What it wrote so far, to either stream. */
  output(): string
  /** Resolves when it wrote the text, and rejects when it ends without. */
  wrote(text: string): Promise<void>
  signal(signal: NodeJS.Signals): void
  /** Resolves to its exit code, or to null where a signal ended it. */
  ended(): Promise<number | null>
}

/**
 * Keeps tap from counting what a program runs as covered: it is compiled by other means than the
 * tests, and their lines do not add up.
 */
export const uncounted = { _TAPJS_PROCESSINFO_COVERAGE_: '0' }

interface ChildOptions extends SpawnOptions {
  /** What is on its standard input; nothing by default. */
  readonly input?: string | Buffer
}

/** Starts a program that does not outlive this process. */
export function startChild(
  command: string,
  args: string[],
  { input, ...options }: ChildOptions = {}
): Child {
  const child = spawn(command, args, optionsFor(options, input === undefined ? 'ignore' : 'pipe'))
  child.stdin?.end(input)
  let output = ''
  const listeners = new Set<() => void>()
  for (const stream of [child.stdout, child.stderr])
    stream?.setEncoding('utf8').on('data', (text: string) => {
      output += text
      for (const listener of listeners) listener()
    })
  // SIGQUIT makes Postgres end its own children; what is not Postgres ends by it, too.
  const endWithUs = () => child.kill('SIGQUIT')
  process.on('exit', endWithUs)
  const end = Promise.race([once(child, 'close'), once(child, 'error')]).then(([error]) => {
    process.off('exit', endWithUs)
    if (error instanceof Error) output += error.message
    for (const listener of listeners) listener()
    return child.exitCode
  })

  return {
    pid: child.pid ?? 0,
    output: () => output,
    wrote(text) {
      return new Promise((resolve, reject) => {
        const look = () => {
          const found = output.includes(text)
          if (!found && isRunning(child)) return
          listeners.delete(look)
          if (found) resolve()
          else reject(new Error(`${command} ended early:\n${output}`))
        }
        listeners.add(look)
        look()
      })
    },
    signal(signal) {
      child.kill(signal)
    },
    ended: () => end
  }
}

/** Runs a program to its end. @throws where it fails, with what it wrote. */
export async function runChild(
  command: string,
  args: string[],
  options: SpawnOptions = {}
): Promise<string> {
  const child = spawn(command, args, optionsFor(options))
  let output = ''
  for (const stream of [child.stdout, child.stderr])
    stream?.setEncoding('utf8').on('data', (text: string) => {
      output += text
    })
  const [code] = await once(child, 'close')
  if (code !== 0) throw new Error(`${command} ${args.join(' ')} failed:\n${output}`)
  return output
}

function optionsFor(options: SpawnOptions, stdin: 'ignore' | 'pipe' = 'ignore'): SpawnOptions {
  const env = { ...(options.env ?? process.env), ...uncounted }
  return { ...options, env, stdio: [stdin, 'pipe', 'pipe'] }
}

function isRunning(child: ChildProcess): boolean {
  return child.pid !== undefined && child.exitCode === null && child.signalCode === null
}
