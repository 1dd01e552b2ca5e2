// From a machine description to a helper's configuration, and from a saved one to that of a machine that goes on from it. Pure.

import { HypemanError } from '../../api/errors.ts'
import type { MachineSpec } from '../driver.ts'
import { partArguments, quietArguments } from '../kernel-arguments.ts'
import { diskName } from '../raw-disks.ts'
import { systemDisk, type Configuration } from './protocol.ts'

/** Names inside the instance's directory, which is the helper's working directory. */
export const vzFiles = {
  control: 'vz.sock',
  vsock: 'vsock.sock',
  console: 'logs/console.log',
  app: 'logs/app.log',
  vmm: 'logs/vmm.log',
} as const

/**
 * A kernel that panics halts at once: the framework starts a guest that resets anew, which would hide it. Beside the vsock device there is a port for the program's output
 * (guest/wires.go).
 */
const kernelArguments = ['console=hvc0', 'hypeman.log=port', 'panic=0', ...quietArguments]

/** The system disk comes second, behind the image: the order of its volumes never changes the devices before them. */
export function configurationOf(spec: MachineSpec, disk: number): Configuration {
  if (spec.network !== null)
    throw new HypemanError(
      'not_supported',
      'vz has no network for its machines yet: the NAT of macOS neither publishes ports nor gives every guest the same address; create the instance without a network (network.enabled: false)',
    )
  const [image, ...volumes] = spec.disks
  return {
    vcpus: spec.vcpus,
    memoryBytes: memoryBytesOf(spec),
    kernel: spec.kernel,
    initrd: spec.initrd,
    commandLine: [...kernelArguments, ...partArguments(spec)].join(' '),
    disks: [...(image === undefined ? [] : [image]), { id: systemDisk, path: diskName(disk), readOnly: false }, ...volumes].map(
      ({ id, path, readOnly }) => ({ id, path, readOnly }),
    ),
    network: null,
    consoleLog: vzFiles.console,
    appLog: vzFiles.app,
    vsockSocket: vzFiles.vsock,
  }
}

export function memoryBytesOf({ memoryMib }: Pick<MachineSpec, 'memoryMib'>): number {
  return memoryMib * 1024 ** 2
}

/**
 * A saved configuration with the paths of another machine, the fork or the restored one, and nothing else of it: the framework takes a saved state only
 * for devices that are equal to those it was saved with, their addresses among them. A machine that differs in more is an error.
 */
export function continued(saved: Configuration, spec: MachineSpec, disk: number): Configuration {
  const wanted = configurationOf(spec, disk)
  const differs = differenceOf(saved, wanted)
  if (differs !== undefined)
    throw new HypemanError('conflict', `the memory image was saved with ${differs}; start it from its disks (target_state Stopped)`)
  const { kernel, initrd, consoleLog, appLog, vsockSocket } = wanted
  return {
    ...saved,
    ...{ kernel, initrd, consoleLog, appLog, vsockSocket },
    disks: saved.disks.map((one, index) => ({ ...one, path: wanted.disks[index]?.path ?? one.path })),
  }
}

/** What a saved machine has that another has not, in words. */
function differenceOf(saved: Configuration, wanted: Configuration): string | undefined {
  const disks = ({ disks: all }: Configuration): string => all.map(({ id, readOnly }) => `${id} ${readOnly ? 'ro' : 'rw'}`).join(', ')
  if (saved.vcpus !== wanted.vcpus) return `${saved.vcpus} vCPUs instead of ${wanted.vcpus}`
  if (saved.memoryBytes !== wanted.memoryBytes) return `${saved.memoryBytes} bytes of memory instead of ${wanted.memoryBytes}`
  if (disks(saved) !== disks(wanted)) return `the disks ${disks(saved)} instead of ${disks(wanted)}`
  if ((saved.network === null) !== (wanted.network === null)) return saved.network === null ? 'no network' : 'a network'
  return undefined
}
