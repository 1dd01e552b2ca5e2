// What guests' kernels are told, whatever the VMM.

import type { DiskPart } from './driver.ts'

/**
 * For every machine: few messages, and less memory that a guest writes of its own accord, since what an idle guest writes each of its forks keeps for itself and each of its snapshots saves. Allocations
 * are not cleared beforehand, huge pages are for programs that ask for them, and nothing watches for lockups (a guest that was frozen would look like one).
 */
export const quietArguments: readonly string[] = [
  'quiet',
  'loglevel=4',
  'random.trust_cpu=on',
  'init_on_alloc=0',
  'transparent_hugepage=madvise',
  'nowatchdog',
  // No memory is compacted in advance: looking whether to would wake an idle guest twice a second.
  'sysctl.vm.compaction_proactiveness=0',
  'audit=0',
  'psi=0',
  'lsm=landlock,yama',
  // For the agent, which is the init and no parent of that variable's: its threads are not interrupted by signals when they run long, as after a stop of the clock.
  'GODEBUG=asyncpreemptoff=1',
]

/** Memory is not balanced between nodes: what that writes is nobody's. Not on macOS, whose machines have none. */
export const oneNode = 'numa_balancing=disable'

/** For the agent, which divides the system disk before it mounts anything of it (guest/boot/parts.go), and has its file system fill it (guest/boot/growth.go). */
export function partArguments({
  systemParts = [],
  systemBytes,
}: {
  readonly systemParts?: readonly DiskPart[]
  readonly systemBytes?: number
}): string[] {
  return [
    ...(systemBytes === undefined ? [] : [`hypeman.system=${systemBytes}`]),
    ...(systemParts.length === 0
      ? []
      : [`hypeman.parts=${systemParts.map(({ offsetBytes, sizeBytes }) => `${offsetBytes}+${sizeBytes}`).join(',')}`]),
  ]
}

/** For the agent, where disks have no serial numbers: their names in the order in which the kernel finds them. */
export function diskArgument(names: readonly string[]): string {
  return `hypeman.disks=${names.join(',')}`
}
