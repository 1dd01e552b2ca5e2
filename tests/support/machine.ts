// Real machines for integration tests: start one, run commands in it over the exec WebSocket, as the command line does.

import type { Hypeman } from '@onkernel/hypeman'
import { openExec } from '../../src/client/exec.ts'
import type { TestServer } from './server.ts'
import { countVm } from './vm-count.ts'

type CreateParams = Parameters<Hypeman['instances']['create']>[0]

/** Smallest machine that the base image runs in. */
export const small = { image: 'hypeman/base', size: '192MB', vcpus: 1, overlay_size: '1GB' } as const

/** Creates a machine and waits until it runs. */
export async function runMachine(server: TestServer, body: Omit<CreateParams, 'image'> & { readonly image?: string }): Promise<string> {
  const created = await server.client.instances.create({ ...small, ...body })
  await untilRunning(server, created.id)
  return created.id
}

/** The log of a server that keeps one is in the failure. */
export async function untilRunning(server: Pick<TestServer, 'client'> & Partial<Pick<TestServer, 'log'>>, id: string): Promise<void> {
  const { state, state_error: reason } = await server.client.instances.wait(id, { state: 'Running', timeout: '2m' })
  if (state !== 'Running') {
    const { exit_message: message } = await server.client.instances.get(id)
    throw new Error(
      `the instance ${id} is ${state} instead of Running: ${reason ?? message ?? 'no reason given'}\n${(await server.log?.()) ?? ''}`,
    )
  }
  countVm(`boot ${id}`)
}

export interface Ran {
  readonly output: string
  readonly exitCode: number
}

/** Runs a shell command to its end; output is stdout and stderr as they came. */
export async function runIn(server: Pick<TestServer, 'url' | 'token'>, id: string, command: string): Promise<Ran> {
  const endpoint = { baseUrl: server.url, token: server.token }
  using exec = await openExec(endpoint, id, { command: ['/bin/sh', '-c', command], tty: false }, AbortSignal.timeout(60_000))
  let output = ''
  for await (const one of exec.outputs()) {
    if (one.kind === 'exit') return { output: output.trimEnd(), exitCode: one.exitCode }
    output += one.data.toString('utf8')
  }
  throw new Error('the exec ended without an exit code')
}

/** Runs a shell command that must succeed; returns its output. */
export async function shell(server: Pick<TestServer, 'url' | 'token'>, id: string, command: string): Promise<string> {
  const { output, exitCode } = await runIn(server, id, command)
  if (exitCode !== 0) throw new Error(`${JSON.stringify(command)} in ${id} ended with ${exitCode}: ${output}`)
  return output
}
