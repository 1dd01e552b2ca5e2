// The real guest agent as a process of this machine that answers on a unix socket, for tests of the host's side. What needs a VM it refuses.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import net from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { connectAgent, type AgentClient, type ExecRequest, type ExecSession } from '../../src/agent/index.ts'
import { isHypemanError, type ErrorCode } from '../../src/api/errors.ts'

export interface GuestAgentProcess extends AsyncDisposable {
  readonly pid: number
  /** A new channel. The caller destroys it. */
  connect(): Promise<net.Socket>
}

const START_LIMIT_MS = 60_000

/** Builds the agent from its sources and starts it. */
export async function startGuestAgent(): Promise<GuestAgentProcess> {
  const directory = await mkdtemp(path.join(os.tmpdir(), 'hm-agent-'))
  const [binary, socket] = [path.join(directory, 'agent'), path.join(directory, 'sock')]
  await run('go', ['build', '-o', binary, '.'], path.resolve(import.meta.dirname, '../../guest'))
  const child = spawn(binary, ['-listen', socket], { stdio: ['ignore', 'inherit', 'inherit'] })
  const deadline = performance.now() + START_LIMIT_MS
  while (!existsSync(socket)) {
    if (child.exitCode !== null || performance.now() > deadline) throw new Error('the guest agent does not listen')
    await delay(5)
  }
  return {
    pid: child.pid ?? -1,
    async connect() {
      const channel = net.connect(socket)
      await once(channel, 'connect')
      return channel
    },
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL')
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
      await rm(directory, { recursive: true })
    },
  }
}

async function run(program: string, args: readonly string[], cwd: string): Promise<void> {
  const child = spawn(program, args, { cwd, stdio: ['ignore', 'inherit', 'inherit'], env: { ...process.env, CGO_ENABLED: '0' } })
  const [code] = await once(child, 'exit')
  if (code !== 0) throw new Error(`${program} ended with ${String(code)}`)
}

export interface Connection extends AsyncDisposable {
  readonly agent: AgentClient
}

/** A connection that ends with its scope. */
export async function connectTo(guest: GuestAgentProcess): Promise<Connection> {
  const channel = await guest.connect()
  const agent = await connectAgent(channel, AbortSignal.timeout(10_000))
  return {
    agent,
    async [Symbol.asyncDispose]() {
      agent.close()
      await agent.closed
    },
  }
}

export function shell(script: string, more: Partial<ExecRequest> = {}): ExecRequest {
  return { argv: ['sh', '-c', script], tty: false, env: {}, cwd: '', user: '', timeoutMs: 0, rows: 24, cols: 80, ...more }
}

export async function outputOf(session: ExecSession): Promise<{ stdout: string; stderr: string }> {
  const output = { stdout: '', stderr: '' }
  for await (const { stream, data } of session.output) output[stream] += data.toString('latin1')
  return output
}

export function hasCode(code: ErrorCode): (error: unknown) => boolean {
  return (error) => {
    assert.ok(isHypemanError(error, code), String(error))
    return true
  }
}

/** Pids of what the agent runs. */
export async function programsOf(guest: GuestAgentProcess): Promise<string[]> {
  const { pid } = guest
  const children = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8')
  const tasks = await readdir(`/proc/${pid}/task`)
  const all = await Promise.all(tasks.map((task) => readFile(`/proc/${pid}/task/${task}/children`, 'utf8').catch(() => '')))
  return [...new Set([children, ...all].flatMap((text) => text.split(' ')).filter((one) => one.trim() !== ''))]
}
