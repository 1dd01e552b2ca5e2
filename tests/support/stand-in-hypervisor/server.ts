// A real server process whose machines are stand-ins, and what their guests can be asked.

import assert from 'node:assert/strict'
import path from 'node:path'
import { openExec } from '../../../src/client/exec.ts'
import { startServer, type TestServer } from '../server.ts'
import { standInProgram } from './program.ts'

const main = path.join(import.meta.dirname, 'main.ts')

/** Starts a server on stand-ins; `settings` are environment variables, as for a server on QEMU. */
export async function startStandInServer(settings: Readonly<Record<string, string>> = {}): Promise<TestServer> {
  // As bin/hypeman does.
  const program = { command: process.execPath, args: ['--max-semi-space-size=4', '--heap-growing-percent=30', main] }
  return startServer({ HYPEMAN_STAND_IN: await standInProgram(), ...settings }, program)
}

/** What a stand-in guest knows and has. */
export interface GuestContent {
  readonly memory: {
    readonly content: string
    /** Made at boot: forks of one memory share it. */
    readonly token: string
    /** Changes with each entropy that the host gives: no two guests share it. */
    readonly random: string
    readonly boot_id: string
    readonly instance_id: string
    readonly hostname: string
    readonly machine_id: string
    readonly mac: string
    readonly generation: number
  }
  readonly disk: string
}

/** A stand-in machine to create. */
export const standIn = { image: 'hypeman/base', size: '64MB', vcpus: 1, overlay_size: '16MB' } as const

/** Runs one of the stand-in guest's programs: `memory`, `disk` (with a text: writes it and prints what was there), `all`, `exit`. */
export async function ask(
  server: Pick<TestServer, 'url' | 'token'>,
  id: string,
  command: readonly string[],
  limitMs = 60_000,
): Promise<{ readonly output: string; readonly exitCode: number }> {
  const endpoint = { baseUrl: server.url, token: server.token }
  using exec = await openExec(endpoint, id, { command, tty: false }, AbortSignal.timeout(limitMs))
  let output = ''
  for await (const one of exec.outputs()) {
    if (one.kind === 'exit') return { output, exitCode: one.exitCode }
    output += one.data.toString('utf8')
  }
  throw new Error('the exec ended without an exit code')
}

/** Everything that a guest has. */
export async function contentOf(server: Pick<TestServer, 'url' | 'token'>, id: string): Promise<GuestContent> {
  const { output, exitCode } = await ask(server, id, ['all'])
  assert.equal(exitCode, 0, output)
  return JSON.parse(output) as GuestContent
}
