// From a machine description to Cloud Hypervisor's configuration, and from the configuration in a snapshot to that of the machine which goes on from it. Pure: no
// files, no processes.

import { z } from 'zod'
import { HypemanError } from '../../api/errors.ts'
import type { MachineSpec, NetworkSpec } from '../driver.ts'
import { diskArgument, oneNode, partArguments, quietArguments } from '../kernel-arguments.ts'
import { vmmFiles } from './files.ts'

/** The VMM's id of the writable system disk. */
export const systemDisk = 'system'
/** Group by which all disks share a limit. */
const disksGroup = 'disks'
/** A connection's guest side: each process has its own socket, so that all guests may have the same. */
const GUEST_CID = 3
const RANDOM_SOURCE = '/dev/urandom'
const MIB = 1024 ** 2
/** Memory is plugged in by blocks of what kernels call sections, in MiB (docs/hotplug.md). */
export const MEMORY_STEP_MIB = 128
/** So often can memory be added to a process (`HOTPLUG_COUNT` in memory_manager.rs). */
const MOST_PIECES = 8
/** Processors are plugged in on amd64 alone (docs/hotplug.md). */
const plugsProcessors = process.arch === 'x64'

/** Boot or restore: what a description does not say. */
export interface Launch {
  /** An uncompressed kernel (ELF with a PVH entry) on amd64, an Image on arm64. */
  readonly kernel: string
  /** Name of the system disk in the instance's directory. */
  readonly systemDisk: string
}

/** What is known of the configuration; what a VMM adds of its own is kept as it is. */
const diskConfig = z.looseObject({
  path: z.string().nullish(),
  id: z.string().nullish(),
  readonly: z.boolean().optional(),
  rate_limit_group: z.string().nullish(),
})
const netConfig = z.looseObject({ tap: z.string().nullish(), mac: z.string().optional() })
const consoleConfig = z.looseObject({ mode: z.string(), file: z.string().nullish() })
const tokenBucket = z.looseObject({ size: z.int(), refill_time: z.int() })
const rateLimitGroup = z.looseObject({ id: z.string(), rate_limiter_config: z.looseObject({ bandwidth: tokenBucket.nullish() }) })

export const vmConfig = z.looseObject({
  cpus: z.looseObject({ boot_vcpus: z.int(), max_vcpus: z.int() }),
  memory: z.looseObject({ size: z.int(), shared: z.boolean().optional(), hotplug_size: z.int().nullish() }),
  payload: z
    .looseObject({
      kernel: z.string().nullish(),
      initramfs: z.string().nullish(),
      cmdline: z.string().nullish(),
      firmware: z.string().nullish(),
    })
    .nullish(),
  rate_limit_groups: z.array(rateLimitGroup).nullish(),
  disks: z.array(diskConfig),
  net: z.array(netConfig).nullish(),
  rng: z.looseObject({ src: z.string() }).optional(),
  balloon: z.looseObject({ size: z.int() }).nullish(),
  serial: consoleConfig,
  console: consoleConfig,
  vsock: z.looseObject({ cid: z.int(), socket: z.string() }),
})

export type VmConfig = z.infer<typeof vmConfig>

/** For the agent, too: where the program's output goes (guest/console.go). */
const kernelArguments = [
  process.arch === 'arm64' ? 'console=ttyAMA0' : 'console=ttyS0',
  'panic=-1',
  'hypeman.log=hvc0',
  oneNode,
  ...quietArguments,
]

/** Of a machine that boots. Disks are in the order in which the guest finds them: image, system disk, volumes. */
export function bootConfig(spec: MachineSpec, launch: Launch): VmConfig {
  return {
    cpus: { boot_vcpus: spec.vcpus, max_vcpus: plugsProcessors ? Math.max(spec.vcpus, spec.largest?.vcpus ?? 0) : spec.vcpus },
    // Shared memory has holes where the guest never wrote, which the VMM leaves out of a snapshot: the guest stands still for what it wrote alone.
    memory: { size: spec.memoryMib * MIB, shared: true, ...roomFor(spec) },
    payload: { kernel: launch.kernel, initramfs: spec.initrd, cmdline: commandLine(spec, launch) },
    ...limitOf(spec),
    disks: disksOf(spec, launch).map(({ id, path, readOnly }) => ({
      id,
      path,
      readonly: readOnly,
      serial: id,
      // Told and never guessed: a guest can write another format's header to its disk, which may name any file of the host's.
      image_type: 'Raw',
      ...(spec.diskBytesPerSecond === null ? {} : { rate_limit_group: disksGroup }),
    })),
    ...(spec.network === null ? {} : { net: [{ id: 'net', tap: tapOf(spec.network), mac: spec.network.mac }] }),
    rng: { src: RANDOM_SOURCE },
    balloon: { size: 0, deflate_on_oom: true },
    serial: { mode: 'File', file: vmmFiles.console },
    // Its standard output, which is opened for appending: a file of its own would be emptied by each start.
    console: { mode: 'Tty' },
    vsock: { cid: GUEST_CID, socket: vmmFiles.vsock },
  }
}

/**
 * Addresses, and no memory, for what may be plugged in: by the ACPI method, which takes nothing away again, so that what is added comes last in each snapshot. Each piece is aligned to the next
 * multiple of the step, for which there must be room beside it.
 */
function roomFor({ memoryMib, largest = { vcpus: 0, memoryMib } }: MachineSpec): { readonly hotplug_size?: number } {
  const mib = Math.ceil((largest.memoryMib - memoryMib) / MEMORY_STEP_MIB) * MEMORY_STEP_MIB
  return mib > 0 ? { hotplug_size: (mib + MOST_PIECES * MEMORY_STEP_MIB) * MIB } : {}
}

/**
 * Of a machine that goes on from a snapshot: what was saved, with the disks, network, limits and paths of the instance that goes on. `conflict` where the saved machine is not
 * the one that is described.
 */
export function restoreConfig(saved: VmConfig, spec: MachineSpec, launch: Launch): VmConfig {
  const wanted = bootConfig(spec, launch)
  const differs = foreignPartOf(saved) ?? differenceOf(saved, wanted)
  if (differs !== undefined)
    throw new HypemanError(
      'conflict',
      `the memory image is of another machine than ${spec.instanceId}: ${differs}; start it from its disks (target_state Stopped)`,
    )
  const [net] = wanted.net ?? []
  return {
    ...saved,
    payload: { ...saved.payload, ...wanted.payload },
    rate_limit_groups: wanted.rate_limit_groups ?? null,
    disks: saved.disks.map((disk, index) => ({
      ...disk,
      ...wanted.disks[index],
      rate_limit_group: wanted.disks[index]?.rate_limit_group ?? null,
    })),
    net: net === undefined ? (saved.net ?? null) : (saved.net ?? []).map((one) => ({ ...one, tap: net.tap, mac: net.mac })),
    rng: { ...saved.rng, src: RANDOM_SOURCE },
    serial: { ...saved.serial, ...wanted.serial },
    console: { ...saved.console, ...wanted.console },
    vsock: { ...saved.vsock, ...wanted.vsock },
  }
}

/** Parts of a machine that stand for files, sockets or devices of the host: none of ours has one. */
const foreignDevices = ['fs', 'generic_vhost_user', 'pmem', 'devices', 'user_devices', 'vdpa', 'tpm', 'ivshmem', 'preserved_fds']
const foreignOfDevices = ['vhost_user', 'vhost_socket', 'backing_files', 'socket', 'fds']

/** What a saved machine has of the host's besides its disks, network and consoles, in words; undefined if nothing. A configuration that was not made here could name any file. */
function foreignPartOf(saved: VmConfig): string | undefined {
  const { disks, net, serial, console: screen, payload, memory } = saved
  const debug = consoleConfig.safeParse(saved['debug_console']).data
  const found = [
    ...foreignDevices.filter((name) => isSet(saved[name])),
    ...[...disks, ...(net ?? []), serial, screen].flatMap((device) => foreignOfDevices.filter((name) => isSet(device[name]))),
    ...['firmware', 'igvm'].filter((name) => isSet(payload?.[name])),
    ...(isSet(memory['zones']) ? ['memory.zones'] : []),
    ...(debug === undefined || debug.mode === 'Off' ? [] : ['debug_console']),
  ]
  return found.length === 0 ? undefined : `it has ${found.join(', ')}, which no machine here is given`
}

/** Of what a VMM writes for a field that was left out, as well as of an empty list. */
function isSet(value: unknown): boolean {
  return value !== undefined && value !== null && value !== false && !(Array.isArray(value) && value.length === 0)
}

/** What makes two machines different for a guest, in words; undefined if nothing does. */
function differenceOf(saved: VmConfig, wanted: VmConfig): string | undefined {
  const told: readonly (readonly [what: string, saved: string | number, wanted: string | number])[] = [
    ['vCPUs', saved.cpus.boot_vcpus, wanted.cpus.boot_vcpus],
    ['bytes of memory', saved.memory.size, wanted.memory.size],
    ['disks', idsOf(saved), idsOf(wanted)],
    ['network devices', saved.net?.length ?? 0, wanted.net?.length ?? 0],
  ]
  const other = told.find(([, one, another]) => one !== another)
  return other === undefined ? undefined : `${other[0]} are ${other[1]} there and ${other[2]} here`
}

function idsOf({ disks }: VmConfig): string {
  return disks.map(({ id }) => id ?? 'unnamed').join(', ')
}

interface Disk {
  readonly id: string
  readonly path: string
  readonly readOnly: boolean
}

function disksOf({ disks }: MachineSpec, launch: Launch): Disk[] {
  return [...disks.slice(0, 1), { id: systemDisk, path: launch.systemDisk, readOnly: false }, ...disks.slice(1)]
}

/** A second's worth at once, and no more: one bucket for all disks. */
function limitOf({ diskBytesPerSecond }: MachineSpec): Pick<VmConfig, 'rate_limit_groups'> {
  if (diskBytesPerSecond === null) return {}
  return { rate_limit_groups: [{ id: disksGroup, rate_limiter_config: { bandwidth: { size: diskBytesPerSecond, refill_time: 1_000 } } }] }
}

function tapOf(network: NetworkSpec): string {
  if (network.kind === 'tap') return network.device
  throw new HypemanError(
    'not_supported',
    'Cloud Hypervisor has no network of its own: give the instance a network with a host device, or none (network.enabled false)',
  )
}

/** The disks are named by their places, too: versions before `serial` give guests none that they know. */
function commandLine(spec: MachineSpec, launch: Launch): string {
  const disks = disksOf(spec, launch).map(({ id }) => id)
  return [...kernelArguments, diskArgument(disks), ...partArguments(spec)].join(' ')
}
