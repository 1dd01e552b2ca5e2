// QEMU for the processors that guests can have: the one table of what it is called for each, and of the machine that every kernel for it boots on.

export interface Emulator {
  /** Found on PATH. */
  readonly program: string
  /** Debian package that brings it. */
  readonly debianPackage: string
  readonly machine: 'q35' | 'virt'
  /** The kernel's name of the machine's serial port. */
  readonly console: 'ttyS0' | 'ttyAMA0'
}

const x64: Emulator = { program: 'qemu-system-x86_64', debianPackage: 'qemu-system-x86', machine: 'q35', console: 'ttyS0' }
const arm64: Emulator = { program: 'qemu-system-aarch64', debianPackage: 'qemu-system-arm', machine: 'virt', console: 'ttyAMA0' }

/** By Node's word for the processor. */
export const emulators = { x64, arm64 } as const

/** For guests with the processor of this host; undefined where there are none. */
export function hostEmulator(processor: string = process.arch): Emulator | undefined {
  return Object.entries(emulators).find(([name]) => name === processor)?.[1]
}
