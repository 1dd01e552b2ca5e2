// Joins this terminal with a command in a guest: keys and resizes go there, output comes back, its exit code becomes ours.

import type { ExecRequest } from '../client/exec.ts'
import type { Session } from './context.ts'
import { write, type Input, type Output } from './terminal.ts'

export interface ExecPlan {
  readonly instance: string
  readonly request: Omit<ExecRequest, 'rows' | 'cols'>
  /** Pass on standard input; else the command finds its input at its end. */
  readonly input: boolean
}

/** Resolves with the command's exit code. */
export async function execInGuest(session: Session, plan: ExecPlan): Promise<number> {
  const { openExec } = await import('../client/exec.ts')
  const { stdin, stdout } = session.terminal
  const { tty } = plan.request
  const size = tty && stdout.rows !== undefined ? { rows: stdout.rows, cols: stdout.columns } : {}
  using exec = await openExec(session.client.http, plan.instance, { ...plan.request, ...size }, session.signal)
  using _raw = rawMode(tty && plan.input ? stdin : undefined)
  using _resizes = followSize(tty ? stdout : undefined, (rows, cols) => {
    exec.resize(rows, cols).catch(() => undefined) // the connection is gone: the loop below says so
  })
  let ended = false
  let failure: { readonly cause: unknown } | undefined
  const input = sendInput(plan.input ? stdin : undefined, exec).catch((cause: unknown) => {
    if (ended) return // the command has gone before its input
    failure = { cause }
    exec[Symbol.dispose]()
  })
  try {
    for await (const output of exec.outputs()) {
      if (output.kind === 'exit') return output.exitCode
      await write(stdout, output.data)
    }
    throw new Error('the command ended without an exit code')
  } catch (error) {
    throw failure?.cause ?? error
  } finally {
    ended = true
    if (plan.input) stdin.destroy()
    await input
  }
}

interface InputSink {
  write(data: Uint8Array): Promise<void>
  endInput(): Promise<void>
}

async function sendInput(stdin: Input | undefined, sink: InputSink): Promise<void> {
  for await (const chunk of (stdin ?? []) as AsyncIterable<Uint8Array>) await sink.write(chunk)
  await sink.endInput()
}

/** Every key goes to the guest, Ctrl-C, too, until disposed of. */
function rawMode(stdin: Input | undefined): Disposable {
  if (stdin?.isTTY !== true || stdin.setRawMode === undefined) return { [Symbol.dispose]: () => undefined }
  stdin.setRawMode(true)
  return { [Symbol.dispose]: () => void (stdin.destroyed || stdin.setRawMode?.(false)) }
}

function followSize(stdout: Output | undefined, tell: (rows: number, cols: number) => void): Disposable {
  const changed = (): void => {
    if (stdout?.rows !== undefined && stdout.columns !== undefined) tell(stdout.rows, stdout.columns)
  }
  stdout?.on('resize', changed)
  return { [Symbol.dispose]: () => void stdout?.off('resize', changed) }
}
