// The VZ driver on Linux: it is told that its host is a Mac, and its helper is the stand-in (tests/vmm-stand-in/vz.ts), whose guests may have no kernel, so that they are there in a moment.

import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { dataLayout, type DataLayout } from '../../src/files/layout.ts'
import { makeDataDirectories } from '../../src/files/stage.ts'
import type { Hypervisor, Machine, MachineSpec, MemorySnapshots } from '../../src/hypervisors/driver.ts'
import { createVzDriver } from '../../src/hypervisors/vz/index.ts'

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

/** A data directory with drivers; disposing ends their machines and removes it. */
export interface VzHost extends AsyncDisposable {
  readonly layout: DataLayout
  /** A driver whose helpers behave as told. */
  driver(settings?: HelperSettings, startLimitMs?: number): Promise<VzDriver>
  /** A driver with any program as its helper. */
  driverOf(command: string): VzDriver
  /** A new, empty directory for an instance, a payload or something staged. */
  directory(): Promise<string>
  spec(directory: string): MachineSpec
  /** A machine with a disk of its own that runs. */
  start(driver: VzDriver): Promise<{ readonly machine: Machine; readonly spec: MachineSpec }>
  /** Counts a machine that the test got elsewhere among those to end. */
  owns<T extends Machine>(machine: T): T
}

export async function vzHost(): Promise<VzHost> {
  const home = await mkdtemp(path.join(os.tmpdir(), 'vz-'))
  const layout = dataLayout(home)
  await makeDataDirectories(layout)
  const machines: Machine[] = []
  // Their processes are not waited for by the event loop, and nothing else may be under way while one ends.
  const alive = setInterval(() => undefined, 60_000)
  let count = 0
  const driverOf = (command: string, startLimitMs?: number): VzDriver => {
    const limit = startLimitMs === undefined ? {} : { startLimitMs }
    const driver = createVzDriver({ layout, command, host: { platform: 'darwin', arch: 'arm64' }, ...limit })
    if (driver.memory === undefined || driver.balloon === undefined) throw new Error('the driver lacks memory snapshots or a balloon')
    return { ...driver, memory: driver.memory, balloon: driver.balloon }
  }
  const host: VzHost = {
    layout,
    driverOf,
    async driver(settings = {}, startLimitMs) {
      const command = path.join(home, `helper-${(count += 1)}`)
      const variables = Object.entries({ STAND_IN_BARE: '1', ...settings }).map(([name, value]) => `export ${name}='${value}'\n`)
      await writeFile(command, `#!/bin/sh\n${variables.join('')}exec ${standIn} "$@"\n`, { mode: 0o755 })
      return driverOf(command, startLimitMs)
    },
    async directory() {
      const directory = layout.instance(`m${(count += 1)}`)
      await mkdir(path.join(directory, 'logs'), { recursive: true })
      return directory
    },
    spec: (directory) => ({
      instanceId: path.basename(directory).padEnd(24, 'x'),
      directory,
      vcpus: 1,
      memoryMib: guestMemoryMib,
      // The stand-in looks whether they are there.
      kernel: standIn,
      initrd: standIn,
      disks: [],
      diskBytesPerSecond: null,
      network: null,
    }),
    async start(driver) {
      const directory = await host.directory()
      await driver.createDisk(directory, 64 * 1024 ** 2)
      const spec = host.spec(directory)
      return { machine: host.owns(await driver.boot(spec, new AbortController().signal)), spec }
    },
    owns(machine) {
      machines.push(machine)
      return machine
    },
    async [Symbol.asyncDispose]() {
      for (const machine of machines) await machine.kill()
      clearInterval(alive)
      await rm(home, { recursive: true })
    },
  }
  return host
}

/** What lies in a directory but logs. */
export async function filesOf(directory: string): Promise<string[]> {
  return (await readdir(directory)).filter((name) => name !== 'logs').toSorted()
}
