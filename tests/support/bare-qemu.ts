// QEMU without a guest: real devices, disk, memory and control socket, but nothing to boot, so that it is there in a moment and costs nothing.
// Its firmware finds no system to start and waits.

import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import {
  findMapping,
  lookForMapping,
  openMemory,
  pageBytes,
  privatePages,
  readPages,
  type Mapping,
} from '../../src/files/memory-image/private-pages.ts'
import type { Hypervisor, MachineSpec, MemorySnapshots } from '../../src/hypervisors/driver.ts'
import { qemuArguments, qemuFiles } from '../../src/hypervisors/qemu/command-line.ts'
import { createQemuDriver } from '../../src/hypervisors/qemu/index.ts'
import { writableLayer } from '../../src/hypervisors/qemu/layers.ts'
import { QemuMachine } from '../../src/hypervisors/qemu/machine.ts'
import { createColdMemory } from '../../src/hypervisors/qemu/memory.ts'
import { spawnDetached } from '../../src/platform/process.ts'
import { driverHost, smallMachine, type DriverHost } from './driver-host.ts'

const bareMemoryMib = 64
const command = 'qemu-system-x86_64'
const basePattern = /^memory-\d+\.base$/
/** Fewer than the firmware needs for itself. */
const FIRMWARE_PAGES = 64

export type Backing = 'a file' | 'no file'

/** A data directory with a driver. */
export interface BareHost extends DriverHost {
  readonly driver: Hypervisor
  readonly memory: MemorySnapshots
  spec(directory: string): MachineSpec
  /** A machine with a disk of its own, whose firmware runs; `Type` is what the handle is made of. Its memory is a file, or none. */
  start(Type?: typeof QemuMachine, backing?: Backing): Promise<{ readonly machine: QemuMachine; readonly spec: MachineSpec }>
}

/** `root` is an existing directory, by default a temporary one. */
export async function bareHost(root?: string): Promise<BareHost> {
  const host = await driverHost(root)
  const driver = createQemuDriver({ machineType: 'q35', accelerator: 'tcg', layout: host.layout })
  if (driver.memory === undefined) throw new Error('the driver has no memory snapshots')
  const specOf = (directory: string): MachineSpec => smallMachine(directory, { kernel: '/nothing', memoryMib: bareMemoryMib })
  return {
    ...host,
    driver,
    memory: driver.memory,
    spec: specOf,
    async start(Type = QemuMachine, backing = 'a file') {
      const directory = await host.directory()
      await driver.createDisk(directory, 64 * 1024 ** 2)
      const spec = specOf(directory)
      const memoryFile = backing === 'a file' ? await createColdMemory(directory, bareMemoryMib * 1024 ** 2) : undefined
      const systemLayer = await writableLayer(directory)
      const args = qemuArguments(spec, { machineType: 'q35', accelerator: 'tcg', memoryFile, systemLayer })
      const bootless = args.filter((argument, index) => !isKernelOption(argument) && !isKernelOption(args[index - 1] ?? ''))
      const process = await spawnDetached({ command, args: bootless, cwd: directory, logFile: path.join(directory, qemuFiles.vmm) })
      const machine = host.owns(new Type(process, directory))
      await untilItWrites(machine)
      return { machine, spec }
    },
  }
}

/** Writes a page of the memory of a machine whose memory is a file, as its guest would. */
export async function writeMemory(machine: QemuMachine, page: number, text: string): Promise<void> {
  await using memory = await openMemory(await memoryOf(machine))
  await memory.writePages(page, Buffer.alloc(pageBytes, text))
}

/** The first characters of a page. */
export async function readMemory(machine: QemuMachine, page: number, length: number): Promise<string> {
  for await (const { data } of readPages(await memoryOf(machine), [{ first: page, count: 1 }])) return data.toString('latin1', 0, length)
  throw new Error(`the machine has no page ${page}`)
}

function memoryOf(machine: QemuMachine): Promise<Mapping> {
  return findMapping(machine.process.pid, basePattern, bareMemoryMib * 1024 ** 2)
}

/** Until the firmware has written to memory, so that there is something to save. */
async function untilItWrites(machine: QemuMachine): Promise<void> {
  await machine.runState()
  for (const deadline = performance.now() + 20_000; !(await hasWritten(machine)); await delay(5))
    if (performance.now() > deadline) throw new Error('the firmware writes nothing')
}

async function hasWritten(machine: QemuMachine): Promise<boolean> {
  const mapping = await lookForMapping(machine.process.pid, basePattern, bareMemoryMib * 1024 ** 2)
  if (mapping !== undefined) return (await privatePages(mapping)).reduce((sum, { count }) => sum + count, 0) >= FIRMWARE_PAGES
  // An entry of the interrupt table, at the very beginning of memory.
  const entry = await machine.command('human-monitor-command', { 'command-line': 'xp /1wx 0x40' })
  return !/: 0x00000000/.test(String(entry))
}

function isKernelOption(argument: string): boolean {
  return ['-kernel', '-initrd', '-append'].includes(argument)
}
