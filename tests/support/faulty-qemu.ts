// A QEMU process without a guest whose commands can be made to fail, and what its directory holds. For tests of the QEMU driver.

import assert from 'node:assert/strict'
import { readdir } from 'node:fs/promises'
import type { MachineSpec } from '../../src/hypervisors/driver.ts'
import { layerName } from '../../src/hypervisors/qemu/layers.ts'
import { QemuMachine } from '../../src/hypervisors/qemu/machine.ts'
import type { Backing, BareHost } from './bare-qemu.ts'
import { run } from './command.ts'

/** Fails commands by name: before they are sent, or after QEMU has carried them out, as if the answer had got lost. */
export class FaultyMachine extends QemuMachine {
  faults: Record<string, 'before' | 'after'> = {}

  override async command(...call: Parameters<QemuMachine['command']>): Promise<unknown> {
    const [name] = call
    const fault = this.faults[name]
    if (fault === 'before') throw new Error(`fault before ${name}`)
    const answer = await super.command(...call)
    if (fault !== 'after') return answer
    this.faults = {}
    throw new Error(`fault after ${name}`)
  }
}

export async function startFaulty(host: BareHost, backing: Backing = 'a file'): Promise<{ machine: FaultyMachine; spec: MachineSpec }> {
  const { machine, spec } = await host.start(FaultyMachine, backing)
  assert.ok(machine instanceof FaultyMachine)
  return { machine, spec }
}

/** What lies there but sockets and logs. */
export async function files(directory: string): Promise<string[]> {
  const sockets = ['agent.sock', 'qmp.sock', 'logs']
  return (await readdir(directory)).filter((name) => !sockets.includes(name)).toSorted()
}

export async function checkChain(directory: string, layer: number): Promise<void> {
  const { code, stderr } = await run('qemu-img', ['check', '-q', '-U', layerName(layer)], { cwd: directory })
  assert.equal(code, 0, stderr)
}
