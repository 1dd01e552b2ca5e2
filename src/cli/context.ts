// One invocation of a command: the client for the chosen server, where results, notes and progress go, and the signal that ends it.

import { styleText } from 'node:util'
import type { Command } from 'commander'
import { createClient, type Client } from '../client/client.ts'
import type { Printer } from './output/format.ts'
import { startProgress, type Progress } from './output/progress.ts'
import { resolveSettings, type GlobalOptions, type Settings } from './settings.ts'
import type { Terminal } from './terminal.ts'

export interface Session extends Printer {
  readonly terminal: Terminal
  readonly settings: Settings
  readonly client: Client
  /** Ends what the command waits for. */
  readonly signal: AbortSignal
  /** Says something to the person on standard error. */
  note(text: string): void
  /** Shows what is waited for until it is disposed of. */
  progress(): Progress
}

/** What command files are made with. */
export interface Cli {
  readonly terminal: Terminal
  session(command: Command): Promise<Session>
  /** The command's outcome: 0 unless somebody says otherwise. */
  exitCode: number
}

export function createCli(terminal: Terminal): Cli {
  return { terminal, session: (command) => openSession(terminal, command.optsWithGlobals<GlobalOptions>()), exitCode: 0 }
}

async function openSession(terminal: Terminal, options: GlobalOptions): Promise<Session> {
  const settings = await resolveSettings(options, terminal)
  let raw = ''
  let shown: Progress | undefined
  const note = (text: string): void => {
    shown?.clear()
    terminal.stderr.write(`${text}\n`)
  }
  const client = createClient({
    baseUrl: settings.baseUrl,
    token: settings.token,
    onAnswer(answer) {
      raw = answer.text
      if (settings.debug) note(`${answer.method} ${answer.path}: ${answer.status} (${Math.round(answer.ms)} ms)`)
    },
    onAbandoned: (method, path) => note(`Interrupted before the server answered ${method} ${path}: it may still do it`),
  })
  const color = wantsColor(terminal)
  return {
    terminal,
    settings,
    client,
    signal: terminal.signal,
    stdout: terminal.stdout,
    format: settings.format,
    color,
    raw: () => raw,
    makeRoom: () => shown?.clear(),
    note,
    progress: () => (shown = startProgress(terminal.stderr)),
  }
}

function wantsColor(terminal: Terminal): boolean {
  return terminal.stdout.isTTY === true && (terminal.env['NO_COLOR'] ?? '') === '' && terminal.env['TERM'] !== 'dumb'
}

/** The colour of an instance's state. */
export function styleState(state: string, text: string = state): string {
  return styleText(
    state === 'Running' ? 'green' : state === 'Unknown' || state === 'failed' ? 'red' : state === 'Standby' ? 'cyan' : 'dim',
    text,
    {
      validateStream: false,
    },
  )
}
