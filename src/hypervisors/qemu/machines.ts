// The machine types of QEMU that guests run on, and all that is different between them. What follows from it in QEMU's arguments: command-line.ts.

import type { emulators } from '../../platform/emulator.ts'
import type { Accelerator } from '../../platform/accelerator.ts'

export type QemuMachineType = 'q35' | 'microvm' | 'virt'

export interface QemuMachineKind {
  /** How the driver of it is called. */
  readonly hypervisor: 'qemu' | 'qemu-microvm'
  /** Of host and guest, by Node's word. */
  readonly processor: keyof typeof emulators
  /** End of the names of its virtio devices. */
  readonly bus: 'pci' | 'device'
  readonly maxVolumes: number
  readonly cpu: Readonly<Record<Accelerator, string>>
  /** Options of `-machine` besides those that all have. */
  readonly options: Readonly<Record<Accelerator, readonly string[]>>
  /** Of the kernel, besides those that all get. */
  readonly kernelArguments: readonly string[]
  /** An emulated processor does by itself what its guest asks a small device for (command-line.ts); virtio-mmio does so anyway. */
  readonly hasEventfd: boolean
}

/** Devices beside the volumes on microvm's virtio-mmio bus: rootfs, system, serial, net, rng. */
const otherDevices = 5
/** virtio-mmio slots of a microvm with its second IO APIC (QEMU's microvm documentation). */
const microvmSlots = 24

/** Nothing that a guest without a keyboard, or on a clock that it can trust, has to wait for. */
const pcKernel = ['reboot=t', 'no_timer_check', 'tsc=reliable', 'i8042.nopnp', 'i8042.noaux', 'i8042.nomux'] as const
const pcCpu = { kvm: 'host', tcg: 'max,la57=off' } as const
const none = { kvm: [], tcg: [] } as const

export const machineKinds = {
  q35: {
    hypervisor: 'qemu',
    processor: 'x64',
    bus: 'pci',
    maxVolumes: 20,
    cpu: pcCpu,
    options: none,
    kernelArguments: pcKernel,
    hasEventfd: true,
  },
  microvm: {
    hypervisor: 'qemu-microvm',
    processor: 'x64',
    bus: 'device',
    maxVolumes: microvmSlots - otherDevices,
    cpu: pcCpu,
    options: { kvm: ['acpi=on', 'rtc=on'], tcg: ['acpi=on', 'rtc=on'] },
    kernelArguments: pcKernel,
    hasEventfd: false,
  },
  virt: {
    hypervisor: 'qemu',
    processor: 'arm64',
    bus: 'pci',
    maxVolumes: 20,
    // Signing pointers as the hardware would costs an emulated guest most of its time; QEMU's own algorithm does not.
    cpu: { kvm: 'host', tcg: 'max,pauth-impdef=on' },
    options: { kvm: ['gic-version=host'], tcg: ['gic-version=3'] },
    kernelArguments: [],
    hasEventfd: true,
  },
} as const satisfies Record<QemuMachineType, QemuMachineKind>

/** Those that a host with that processor runs. */
export function machineTypesOn(processor: string): readonly QemuMachineType[] {
  return (['q35', 'microvm', 'virt'] as const).filter((type) => machineKinds[type].processor === processor)
}
