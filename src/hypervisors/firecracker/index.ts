// The Firecracker driver. Recipes and their reasons: README.md.

import { HypemanError } from '../../api/errors.ts'
import type { DataLayout } from '../../files/layout.ts'
import { tellsPageHoles } from '../../files/sparse.ts'
import { findBinaries } from '../../platform/binaries.ts'
import { messageOf } from '../../platform/flow.ts'
import { adoptProcess, workingDirectory } from '../../platform/process.ts'
import type { Hypervisor } from '../driver.ts'
import { versionsOf } from '../versions.ts'
import { balloon } from './balloon.ts'
import { MAX_VOLUMES } from './configuration.ts'
import { addRawParts, createRawDisk, exportRawDisk, growRawDisk, importRawDisk, linkDisk, linkFrozen } from './disks.ts'
import { partOf } from './files.ts'
import { jailOfProcess } from './jail.ts'
import { findJailers, type Jailing } from './jailer.ts'
import { FirecrackerMachine } from './machine.ts'
import { linkImage } from './memory.ts'
import { memorySnapshots } from './memory-snapshots.ts'
import { startCold } from './start.ts'

export interface FirecrackerDriverOptions {
  readonly layout: DataLayout
  /** Found on PATH unless absolute. */
  readonly command?: string | undefined
  /** The kernel in the form that Firecracker boots, from the one that is kept. */
  readonly kernelImage: (kernel: string) => Promise<string>
  /** Why KVM can't be used here, in one sentence; undefined if it can. */
  readonly whyNoKvm: () => Promise<string | undefined>
  /** Whether processes are started by Firecracker's jailer; by default they are not. */
  readonly jailing?: Jailing | undefined
  /** Whether the file system of a directory tells pages from holes beside them; by default it is asked. */
  readonly pageHoles?: ((directory: string) => Promise<boolean>) | undefined
  /** Until a started process must answer for the first time, in milliseconds. */
  readonly startLimitMs?: number | undefined
}

/** The first version that describes its devices by ACPI: the distributions' kernels find them by nothing else. */
const OLDEST = [1, 8] as const

export function createFirecrackerDriver(options: FirecrackerDriverOptions): Hypervisor {
  const { layout, command = 'firecracker', kernelImage, whyNoKvm, pageHoles = tellsPageHoles, startLimitMs, jailing = 'off' } = options
  const advice = 'install it (hypeman hypervisor install firecracker@<version>), or name its program in the setting hypervisor.firecracker'
  const binaries = findBinaries({
    command,
    installed: { directory: layout.hypervisor('firecracker'), program: 'firecracker' },
    pattern: /^Firecracker v(\S+)/,
    advice,
  })
  const jailers = findJailers(jailing, process.getuid?.() === 0, layout.root)
  const arch = process.arch === 'arm64' ? 'arm64' : 'x64'
  const versions = versionsOf(binaries, { hypervisor: 'firecracker', machineType: `firecracker-${arch}`, accelerator: 'kvm' })
  return {
    name: 'firecracker',
    diskFormat: 'raw-file',
    features: ['snapshots', 'standby', 'fork', 'pause', 'balloon-control', 'vsock', 'disk-io-limit'],
    networks: ['tap'],
    maxVolumes: MAX_VOLUMES,
    memory: memorySnapshots(versions, { pageHoles: () => pageHoles(layout.staging), startLimitMs, jailers }),
    balloon,
    partOf,
    program: async () => (await binaries.usual()).path,
    stamp: versions.stamp,
    jailed: async () => (await jailers.of(await binaries.usual())) !== undefined,
    async unavailable(wanted) {
      try {
        const program = await versions.programFor(wanted)
        const problem = tooOld(program.version) ?? (await whyNoKvm())
        if (problem === undefined) await jailers.of(program)
        return problem
      } catch (error) {
        return messageOf(error)
      }
    },
    createDisk: (directory, sizeBytes) => createRawDisk(layout, directory, sizeBytes),
    addDiskParts: (directory, sizes) => addRawParts(directory, sizes),
    growDisk: growRawDisk,
    exportDisk: exportRawDisk,
    importDisk: importRawDisk,
    async boot(spec, signal) {
      const binary = await binaries.usual()
      const problem = tooOld(binary.version)
      if (problem !== undefined) throw new HypemanError('host_unavailable', problem)
      const kernel = await kernelImage(spec.kernel)
      const jailer = await jailers.of(binary)
      return versions.onSameVersion(() => startCold({ ...binary, jailer, startLimitMs }, spec, kernel, signal))
    },
    async adopt({ directory }, process) {
      // A record that was copied names the process of the instance that it was copied from.
      const found = (await workingDirectory(process.pid, directory)) === directory ? adoptProcess(process) : undefined
      if (found === undefined) return undefined
      const machine = new FirecrackerMachine(found, directory, { mayBeSaved: true, jail: await jailOfProcess(process.pid) })
      machine.followLog(undefined)
      return machine
    },
    share: (directory, target, withMemory) => (withMemory ? linkImage(directory, target, 'into a payload') : linkFrozen(directory, target)),
    materialise: (payload, directory, withMemory) =>
      withMemory ? linkImage(payload, directory, 'out of a payload') : linkDisk(payload, directory, false),
  }
}

function tooOld(version: string): string | undefined {
  const [major = 0, minor = 0] = version.split('.').map(Number)
  if (major > OLDEST[0] || (major === OLDEST[0] && minor >= OLDEST[1])) return undefined
  return `Firecracker ${version} is too old for distributions' kernels; install ${OLDEST.join('.')} or a later one`
}
