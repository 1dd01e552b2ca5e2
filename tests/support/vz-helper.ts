// The VZ driver on Linux: it is told that its host is a Mac, and its helper is the stand-in (tests/vmm-stand-in/vz.ts), whose guests may have no kernel, so that they are there in a moment.

import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import type { Hypervisor, Machine, MachineSpec, MemorySnapshots } from '../../src/hypervisors/driver.ts'
import { createVzDriver } from '../../src/hypervisors/vz/index.ts'
import { driverHost, smallMachine, type DriverHost } from './driver-host.ts'

export { filesIn } from './driver-host.ts'

const standIn = path.resolve(import.meta.dirname, '../vmm-stand-in/bin/hypeman-vz')
const guestMemoryMib = 64
/** A helper that never listens costs a test so much, in milliseconds. */
export const SHORT_START_MS = 1_500
/** By then the stand-in listens, also on a busy host. */
export const LISTENS_BY_THEN_MS = 10_000

/** What the stand-in does otherwise: variables that it reads. */
export interface HelperSettings {
  readonly STAND_IN_MACOS?: string
  /** What a process says that was started later. */
  readonly STAND_IN_MACOS_NOW?: string
  readonly STAND_IN_UNSAVABLE?: string
  readonly STAND_IN_FAULT?: `${string}:${'die' | 'hang' | 'garbage'}`
}

export type VzDriver = Hypervisor & { readonly memory: MemorySnapshots; readonly balloon: NonNullable<Hypervisor['balloon']> }

/** A data directory with drivers. */
export interface VzHost extends DriverHost {
  /** A driver whose helpers behave as told. */
  driver(settings?: HelperSettings, startLimitMs?: number): Promise<VzDriver>
  /** A driver with any program as its helper. */
  driverOf(command: string): VzDriver
  spec(directory: string): MachineSpec
  /** A machine with a disk of its own that runs. */
  start(driver: VzDriver): Promise<{ readonly machine: Machine; readonly spec: MachineSpec }>
}

export async function vzHost(): Promise<VzHost> {
  const host = await driverHost()
  const { layout } = host
  let helpers = 0
  const driverOf = (command: string, startLimitMs?: number): VzDriver => {
    const limit = startLimitMs === undefined ? {} : { startLimitMs }
    const driver = createVzDriver({ layout, command, host: { platform: 'darwin', arch: 'arm64' }, ...limit })
    if (driver.memory === undefined || driver.balloon === undefined) throw new Error('the driver lacks memory snapshots or a balloon')
    return { ...driver, memory: driver.memory, balloon: driver.balloon }
  }
  // The stand-in looks whether kernel and initrd are there.
  const spec = (directory: string): MachineSpec => smallMachine(directory, { kernel: standIn, memoryMib: guestMemoryMib })
  return {
    ...host,
    driverOf,
    spec,
    async driver(settings = {}, startLimitMs) {
      const command = path.join(host.home, `helper-${(helpers += 1)}`)
      const variables = Object.entries({ STAND_IN_BARE: '1', ...settings }).map(([name, value]) => `export ${name}='${value}'\n`)
      await writeFile(command, `#!/bin/sh\n${variables.join('')}exec ${standIn} "$@"\n`, { mode: 0o755 })
      return driverOf(command, startLimitMs)
    },
    async start(driver) {
      const directory = await host.directory()
      await driver.createDisk(directory, 64 * 1024 ** 2)
      return { machine: host.owns(await driver.boot(spec(directory), new AbortController().signal)), spec: spec(directory) }
    },
  }
}
