// The VZ driver: virtual machines of macOS (Virtualization.framework), each in a helper process of its own (vz/, Swift). What the two say to each other: vz/PROTOCOL.md.
// It has not run on a Mac yet: README.md.

import { HypemanError } from '../../api/errors.ts'
import type { DataLayout } from '../../files/layout.ts'
import { findBinaries, type Binary } from '../../platform/binaries.ts'
import { messageOf } from '../../platform/flow.ts'
import { adoptProcess, workingDirectory } from '../../platform/process.ts'
import type { Balloon, Hypervisor, Machine } from '../driver.ts'
import { addDiskParts, createDisk, exportDisk, growDisk, importDisk } from '../raw-disks.ts'
import { versionsOf } from '../versions.ts'
import { diskOf, linkFrozen, partOf } from './image.ts'
import { VzMachine } from './machine.ts'
import { memorySnapshots } from './memory-snapshots.ts'
import { PROTOCOL } from './protocol.ts'
import { startCold, type VzProgram } from './start.ts'

export interface VzDriverOptions {
  readonly layout: DataLayout
  /** Path of the helper (vz/build.sh). */
  readonly command: string
  /** What the host is; by default this process's. */
  readonly host?: { readonly platform: NodeJS.Platform; readonly arch: NodeJS.Architecture }
  readonly startLimitMs?: number
}

/** Save and restore came with this version of macOS. */
const OLDEST_MACOS = 14

export function createVzDriver({ layout, command, host = process, startLimitMs }: VzDriverOptions): Hypervisor {
  const program: VzProgram = { command, startLimitMs }
  const advice = 'build it on this Mac with vz/build.sh'
  const binaries = findBinaries({ command, pattern: new RegExp(`^hypeman-vz protocol ${PROTOCOL} on macOS (\\S+)`), advice })

  /** What the host must be comes first: a Mac's helper does not even start elsewhere. */
  const macos = async (): Promise<Binary> => {
    if (host.platform !== 'darwin' || host.arch !== 'arm64')
      throw new HypemanError('host_unavailable', 'vz runs on macOS on Apple silicon alone; use qemu on this host')
    const helper = await binaries.usual()
    const { version } = helper
    if (Number.parseInt(version, 10) >= OLDEST_MACOS) return helper
    throw new HypemanError('host_unavailable', `vz needs macOS ${OLDEST_MACOS} or later, here is ${version}; update macOS`)
  }
  const versions = versionsOf(
    {
      ...binaries,
      usual: () => macos(),
      async of(version) {
        const helper = await macos()
        return helper.version === version ? helper : undefined
      },
    },
    { hypervisor: 'vz', machineType: `generic-${PROTOCOL}`, accelerator: 'virtualization-framework' },
    { before: 'on macOS ', isOne: true },
  )

  return {
    name: 'vz',
    diskFormat: 'numbered-raw',
    features: ['snapshots', 'standby', 'fork', 'pause', 'balloon-control', 'vsock'],
    // The NAT of macOS publishes no ports, and gives each guest another address: neither of the contract's kinds.
    networks: [],
    maxVolumes: 20,
    memory: memorySnapshots(program, versions),
    balloon,
    partOf,
    stamp: versions.stamp,
    unavailable: () =>
      macos().then(
        () => undefined,
        (error: unknown) => messageOf(error),
      ),
    createDisk: (directory, sizeBytes) => createDisk(layout, directory, sizeBytes),
    addDiskParts: (directory, sizes) => addDiskParts(layout, directory, sizes),
    growDisk: (directory, sizeBytes) => growDisk(layout, directory, sizeBytes),
    exportDisk: async (directory, file, signal) => exportDisk(directory, await diskOf(directory), file, signal),
    importDisk,
    async boot(spec, signal) {
      const { version } = await macos()
      return versions.onSameVersion(() => startCold(program, spec, version, signal))
    },
    async adopt(spec, process) {
      // A record that was copied names the process of the instance that it was copied from.
      const found = (await workingDirectory(process.pid, spec.directory)) === spec.directory ? adoptProcess(process) : undefined
      return found === undefined ? undefined : new VzMachine(found, spec.directory)
    },
    share: linkFrozen,
    // What goes on from it makes a disk of its own when it starts.
    materialise: linkFrozen,
  }
}

const MIB = 1024 ** 2

/** The framework tells what a guest was asked for, not what it has given: a guest without the driver, or one that needs its memory, gives less. */
const balloon: Balloon = {
  async given(machine, signal) {
    const { configuration, balloonTargetBytes } = await asVz(machine).info(signal)
    if (configuration === null || balloonTargetBytes === null) return 0
    return Math.max(0, configuration.memoryBytes - balloonTargetBytes)
  },
  async ask(machine, bytes, signal) {
    const vz = asVz(machine)
    const { configuration } = await vz.info(signal)
    if (configuration === null) throw new HypemanError('invalid_state', `the machine in ${vz.directory} has not been started`)
    // The framework takes whole mebibytes.
    const targetBytes = Math.max(MIB, Math.ceil((configuration.memoryBytes - bytes) / MIB) * MIB)
    await vz.ask('vm.balloon', { targetBytes }, { signal })
  },
}

function asVz(machine: Machine): VzMachine {
  if (machine instanceof VzMachine) return machine
  throw new TypeError('the machine is of another driver')
}
