// Runs tools of the host (skopeo, umoci, mkfs.erofs, zstd, lz4) to their end. A tool dies with the server, so nothing writes into what the next start sweeps.
// Not for VMMs (process.ts).

import { execa } from 'execa'
import { HypemanError } from '../api/errors.ts'

export interface ToolRun {
  readonly cwd: string
  readonly signal: AbortSignal
  readonly env?: Readonly<Record<string, string>>
  /** What it reads from its standard input; absent: nothing. */
  readonly input?: string
  /** File descriptors of the server's that it finds as 3, 4, … */
  readonly inherit?: readonly number[]
  /** After which it is killed; no limit if absent. */
  readonly timeoutMs?: number
  /** It gives way to everything else that wants a processor or the disk. */
  readonly idle?: boolean
}

/** A tool that ended with an error; `said` is its standard error. */
export class ToolError extends Error {
  readonly said: string
  readonly timedOut: boolean

  constructor(program: string, said: string, timedOut: boolean, cause: unknown) {
    super(timedOut ? `${program} did not end in time` : `${program} failed: ${lastLine(said)}`, { cause })
    this.name = 'ToolError'
    this.said = said
    this.timedOut = timedOut
  }
}

/** Until a tool that ignores SIGTERM is killed, in milliseconds. */
const KILL_AFTER_MS = 2_000
/** Longest output that is kept, bytes. Manifests are at most 4 MiB. */
const LONGEST_OUTPUT = 8 * 1024 ** 2

/** Runs a program and returns its standard output. A full disk, a missing program and an abort are errors of their own; the rest is `ToolError`. */
export async function runTool(program: string, args: readonly string[], run: ToolRun): Promise<Buffer> {
  run.signal.throwIfAborted()
  const [file = program, ...before] = toolCommand(program, run.idle)
  const result = await execa(file, [...before, ...args], {
    cwd: run.cwd,
    cancelSignal: run.signal,
    forceKillAfterDelay: KILL_AFTER_MS,
    timeout: run.timeoutMs ?? 0,
    env: { LC_ALL: 'C', ...run.env },
    ...(run.input === undefined ? {} : { input: run.input }),
    stdio: [run.input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe', ...(run.inherit ?? []).map(parseDescriptor)],
    encoding: 'buffer',
    maxBuffer: LONGEST_OUTPUT,
    stripFinalNewline: false,
    reject: false,
  })
  if (!result.failed) return Buffer.from(result.stdout)
  run.signal.throwIfAborted()
  const { code, exitCode, timedOut, cause } = result
  const said = Buffer.from(result.stderr ?? []).toString()
  if (code === 'ENOENT' || (exitCode === 127 && /^(?:setpriv|nice|ionice):/.test(said)))
    throw new HypemanError('host_unavailable', `${program} is not installed; run npm run setup`, { cause })
  if (/no space left on device|disk quota exceeded/i.test(said))
    throw new HypemanError('storage_full', `no space left while ${program} was writing; free some and try again`, {
      cause: new Error(lastLine(said)),
    })
  throw new ToolError(program, said, timedOut, cause)
}

/**
 * A program with what stands before it: setpriv(1) from util-linux, so that the kernel ends the tool when the server dies, however it dies; nice(1) and
 * ionice(1) for one that gives way.
 */
export function toolCommand(program: string, idle = false): readonly string[] {
  if (process.platform !== 'linux') return [program]
  const humble = idle ? ['nice', '-n', '19', 'ionice', '-c', '3'] : []
  return ['setpriv', '--pdeathsig', 'KILL', '--', ...humble, program]
}

/** The last thing that a tool said, without what its log puts around it. */
export function lastLine(said: string): string {
  const line = said.trim().split('\n').at(-1) ?? ''
  const message = /msg="((?:[^"\\]|\\.)*)"/.exec(line)?.[1]?.replaceAll(String.raw`\"`, '"')
  return message ?? (line === '' ? 'it did not say why' : line.trim())
}

/** execa takes any, and its types know those below ten. */
function parseDescriptor(descriptor: number): 3 {
  return descriptor as 3
}
