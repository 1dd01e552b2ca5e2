// The floor: the least that any program could do on this machine, by hand and without the server: QEMU is started, made to run, its agent asked once.
// Everything that can be prepared (directory, links, disk layer) is prepared before the clock starts.

import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync } from 'node:fs'
import { mkdir, rm } from 'node:fs/promises'
import { connect } from 'node:net'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { z } from 'zod'
import { connectAgent } from '../src/agent/index.ts'
import type { AgentClient } from '../src/agent/contract.ts'
import type { MachineSpec } from '../src/hypervisors/driver.ts'
import { qemuArguments, qemuFiles, type QemuLaunch } from '../src/hypervisors/qemu/command-line.ts'
import { createQemuDriver } from '../src/hypervisors/qemu/index.ts'
import { addLayer, writableLayer } from '../src/hypervisors/qemu/layers.ts'
import { checkedManifest, createColdMemory, stateFile } from '../src/hypervisors/qemu/memory.ts'
import { QmpClient } from '../src/hypervisors/qemu/qmp.ts'
import type { DataLayout } from '../src/files/layout.ts'
import { acceleratorOf } from '../src/platform/accelerator.ts'

const status = z.object({ status: z.string() })
const LIMIT_MS = 120_000

/** One machine run by hand, and how long it took to answer. */
export interface HandRun extends AsyncDisposable {
  readonly readyMs: number
  /** The only connection that its agent takes. */
  readonly agent: AgentClient
  /** Stops the guest, saves its devices and lets it go on; returns how long it stood still, in milliseconds. */
  pauseOnce(): Promise<number>
}

/** `spec` without its directory, which each run has for itself. */
export type BareSpec = Omit<MachineSpec, 'directory'>

export async function bootByHand(layout: DataLayout, spec: BareSpec, overlayBytes: number): Promise<HandRun> {
  const directory = await freshDirectory(layout)
  const accelerator = await acceleratorOf()
  await createQemuDriver({ machineType: 'q35', accelerator, layout }).createDisk(directory, overlayBytes)
  const memoryFile = await createColdMemory(directory, spec.memoryMib * 1024 ** 2)
  const systemLayer = await writableLayer(directory)
  return start({ ...spec, directory }, { machineType: 'q35', accelerator, memoryFile, systemLayer })
}

/** `payload` is a snapshot's `guest` directory. */
export async function forkByHand(layout: DataLayout, spec: BareSpec, payload: string): Promise<HandRun> {
  const directory = await freshDirectory(layout)
  const accelerator = await acceleratorOf()
  await createQemuDriver({ machineType: 'q35', accelerator, layout }).materialise(payload, directory, true)
  const image = await checkedManifest(directory)
  const systemLayer = await addLayer(directory, image.lastLayer)
  return start({ ...spec, directory }, { machineType: 'q35', accelerator, memoryFile: image.base, systemLayer, incoming: 'fd:3' })
}

let runs = 0
async function freshDirectory(layout: DataLayout): Promise<string> {
  const directory = path.join(layout.cache, `floor-${(runs += 1)}`)
  await mkdir(path.join(directory, 'logs'), { recursive: true })
  return directory
}

async function start(spec: MachineSpec, launch: QemuLaunch): Promise<HandRun> {
  const signal = AbortSignal.timeout(LIMIT_MS)
  const incoming = launch.incoming === undefined ? [] : [openSync(path.join(spec.directory, stateFile), 'r')]
  const log = openSync(path.join(spec.directory, qemuFiles.vmm), 'a')
  const started = performance.now()
  const child = spawn('qemu-system-x86_64', qemuArguments(spec, launch), { cwd: spec.directory, stdio: ['ignore', log, log, ...incoming] })
  const qmp = await connectWhenThere(path.join(spec.directory, qemuFiles.qmp), signal)
  if (incoming.length > 0) {
    while (status.parse(await qmp.execute('query-status')).status === 'inmigrate') await delay(1)
    await qmp.execute('cont')
  }
  const agent = await connectAgent(connect(path.join(spec.directory, qemuFiles.agent)), signal)
  await agent.health(signal)
  const readyMs = performance.now() - started
  for (const descriptor of [log, ...incoming]) closeSync(descriptor)
  return {
    readyMs,
    agent,
    async pauseOnce() {
      const from = performance.now()
      await qmp.execute('stop')
      await qmp.execute('xen-save-devices-state', { filename: 'floor.state', live: false })
      await qmp.execute('cont')
      const ms = performance.now() - from
      await rm(path.join(spec.directory, 'floor.state'))
      return ms
    },
    [Symbol.asyncDispose]: () => end(child, qmp, agent, spec.directory),
  }
}

async function connectWhenThere(file: string, signal: AbortSignal): Promise<QmpClient> {
  for (;;) {
    try {
      return await QmpClient.connect(file, signal)
    } catch (error) {
      const code = error instanceof Error && 'code' in error ? error.code : undefined
      if (code !== 'ENOENT' && code !== 'ECONNREFUSED') throw error
      await delay(1, undefined, { signal })
    }
  }
}

async function end(child: ChildProcess, qmp: QmpClient, agent: AgentClient, directory: string): Promise<void> {
  agent.close()
  qmp.close()
  // Ctrl-C at a terminal has ended it already.
  if (child.exitCode === null && child.signalCode === null) {
    const ended = once(child, 'exit')
    child.kill('SIGKILL')
    await ended
  }
  await rm(directory, { recursive: true })
}
