// From a machine description to QEMU's arguments. Pure: no files, no processes. The recipes behind it are explained in README.md.

import { emulators } from '../../platform/emulator.ts'
import type { MachineSpec } from '../driver.ts'
import { oneNode, partArguments, quietArguments } from '../kernel-arguments.ts'
import { machineKinds, type QemuMachineKind, type QemuMachineType } from './machines.ts'

/** Names inside the instance's directory, which is QEMU's working directory. */
export const qemuFiles = {
  qmp: 'qmp.sock',
  agent: 'agent.sock',
  console: 'logs/console.log',
  app: 'logs/app.log',
  vmm: 'logs/vmm.log',
} as const

/** QEMU's name of the guest's memory. */
const memoryBlock = 'mem'

/** QMP and `-drive` id of the writable system disk. */
export const systemDisk = 'system'

export interface QemuLaunch {
  readonly machineType: QemuMachineType
  readonly accelerator: 'kvm' | 'tcg'
  /** Rate of the host's time-stamp counter, if known. */
  readonly tscKhz?: number | undefined
  /** Guest RAM, a sparse file of that size in the working directory, mapped privately and never written; undefined: memory without a file. */
  readonly memoryFile: string | undefined
  /** The writable layer, a qcow2 file in the working directory. */
  readonly systemLayer: string
  /** Start paused from device state: on an inherited descriptor at once (`fd:3`), or when QMP's `migrate-incoming` says so (`defer`). */
  readonly incoming?: `fd:${number}` | 'defer' | undefined
  /** Inherited descriptor of the control socket, which listens already; else QEMU makes it. */
  readonly controlFd?: number | undefined
}

/** After a panic the machine is off, instead of hanging. */
const kernelArguments = [...quietArguments, 'panic=-1', oneNode]

export function qemuArguments(spec: MachineSpec, launch: QemuLaunch): string[] {
  const { bus, cpu } = kindOf(launch)
  const throttle = throttleOf(spec)
  return [
    ...['-name', `hypeman-${spec.instanceId}`],
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
    ...['-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'],
    // The stream carries no machine configuration: it is made and read by the same arguments.
    ...['-global', 'migration.send-configuration=off'],
    // A guest that goes on is not told to announce itself to a network where only this QEMU hears it: a tenth of the code that a fork had to translate (docs/benchmarks.md).
    ...['-global', 'migration.announce-rounds=0'],
    ...['-machine', machineOptions(launch), '-cpu', cpu[launch.accelerator], '-smp', String(spec.vcpus), '-m', `${spec.memoryMib}M`],
    ...['-object', memoryObject(spec, launch)],
    ...startOf(spec, launch),
    ...['-chardev', `file,id=console,path=${qemuFiles.console},append=on`, '-serial', 'chardev:console'],
    ...['-chardev', `socket,id=qmp,${controlAddress(launch)},server=on,wait=off`, '-mon', 'chardev=qmp,mode=control'],
    ...spec.disks.slice(0, 1).flatMap((disk) => rawDisk(disk, bus, throttle)),
    ...[
      '-drive',
      `if=none,id=${systemDisk},file=${launch.systemLayer},format=qcow2,discard=unmap,detect-zeroes=unmap${throttle}`,
      '-device',
      `virtio-blk-${bus},drive=${systemDisk},serial=${systemDisk}`,
    ],
    ...spec.disks.slice(1).flatMap((disk) => rawDisk(disk, bus, throttle)),
    ...['-device', `virtio-serial-${bus}${atOnce(launch)}`],
    ...[
      '-chardev',
      `socket,id=agent,path=${qemuFiles.agent},server=on,wait=off`,
      '-device',
      'virtserialport,chardev=agent,name=org.hypeman.agent.0',
    ],
    ...['-chardev', `file,id=app,path=${qemuFiles.app},append=on`, '-device', 'virtserialport,chardev=app,name=org.hypeman.log.0'],
    ...networkArguments(spec.network, bus),
    ...['-object', 'rng-random,id=rng,filename=/dev/urandom', '-device', `virtio-rng-${bus},rng=rng${atOnce(launch)}`],
  ]
}

/**
 * An emulated processor does by itself what its guest asks a small device for. Through QEMU's main loop each of the serial device's 64 queues is one more descriptor to
 * be made and watched, which took a twentieth of a fork's processor time. Disks and network keep working beside the processor; nothing of this shows in the guest.
 */
function atOnce(launch: QemuLaunch): string {
  return kindOf(launch).hasEventfd && launch.accelerator === 'tcg' ? ',ioeventfd=off' : ''
}

function controlAddress({ controlFd }: QemuLaunch): string {
  return controlFd === undefined ? `path=${qemuFiles.qmp}` : `fd=${controlFd}`
}

/** Both kinds are the same block of guest memory, `mem`: what one wrote the other takes over. */
function memoryObject(spec: MachineSpec, { memoryFile }: QemuLaunch): string {
  const block = `id=${memoryBlock},size=${spec.memoryMib}M`
  return memoryFile === undefined ? `memory-backend-ram,${block}` : `memory-backend-file,${block},mem-path=${memoryFile},share=off`
}

/** A cold guest loads a kernel. One that goes on from device state has it in memory already: reading it again would only cost time. */
function startOf(spec: MachineSpec, launch: QemuLaunch): string[] {
  if (launch.incoming !== undefined) return ['-incoming', launch.incoming, '-S']
  return [
    '-kernel',
    spec.kernel,
    '-initrd',
    spec.initrd,
    '-append',
    [...consoleArguments(launch), ...kernelArguments, ...clockArguments(launch), ...partArguments(spec)].join(' '),
  ]
}

function consoleArguments(launch: QemuLaunch): string[] {
  const { processor, kernelArguments: ofKind } = kindOf(launch)
  return [`console=${emulators[processor].console}`, ...ofKind]
}

function kindOf({ machineType }: QemuLaunch): QemuMachineKind {
  return machineKinds[machineType]
}

/**
 * An emulated microvm has no timer but the PIT to measure its time-stamp counter by, which fails on a busy host and leaves the kernel hanging
 * (11 of 20 boots got through, November 2026). The counter is the host's own, so the kernel can be told its rate.
 */
function clockArguments({ machineType, accelerator, tscKhz }: QemuLaunch): string[] {
  return machineType === 'microvm' && accelerator === 'tcg' && tscKhz !== undefined ? [`tsc_early_khz=${tscKhz}`] : []
}

function machineOptions(launch: QemuLaunch): string {
  const options = [launch.machineType, `accel=${launch.accelerator}`, `memory-backend=${memoryBlock}`, 'suppress-vmdesc=on']
  return [...options, ...kindOf(launch).options[launch.accelerator]].join(',')
}

/** One group for all disks, so that they share what they may read and write. It is set on the guest's side of a disk: layers come and go below it. */
function throttleOf({ diskBytesPerSecond }: MachineSpec): string {
  return diskBytesPerSecond === null ? '' : `,throttling.bps-total=${diskBytesPerSecond},throttling.group=disks`
}

function rawDisk(disk: MachineSpec['disks'][number], bus: string, throttle: string): string[] {
  return [
    '-drive',
    `if=none,id=${disk.id},file=${escaped(disk.path)},format=raw,readonly=${disk.readOnly ? 'on' : 'off'}${throttle}`,
    '-device',
    `virtio-blk-${bus},drive=${disk.id},serial=${disk.id}`,
  ]
}

function networkArguments(network: MachineSpec['network'], bus: string): string[] {
  if (network === null) return []
  const card = ['-device', `virtio-net-${bus},netdev=net,mac=${network.mac}`]
  // Without headers of virtio the guest has the same card as in user mode, which has none: memory images go on under either.
  if (network.kind === 'tap') return ['-netdev', `tap,id=net,ifname=${network.device},script=no,downscript=no,vnet_hdr=off`, ...card]
  const forwards = network.ports.map(
    (port) => `,hostfwd=${port.protocol}:${bracketed(port.hostAddress)}:${port.hostPort}-:${port.guestPort}`,
  )
  // IPv4 alone, as on the guest's side (guest/network): a guest that hears of no IPv6 router has nothing to write about one.
  return ['-netdev', `user,id=net,ipv6=off${forwards.join('')}`, ...card]
}

function bracketed(address: string): string {
  return address.includes(':') ? `[${address}]` : address
}

/** A comma ends an option's value unless it is doubled. */
function escaped(path: string): string {
  return path.replaceAll(',', ',,')
}
