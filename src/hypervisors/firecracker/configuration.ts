// From a machine description to Firecracker's configuration, as its API takes it. Pure: no files, no processes.

import { HypemanError } from '../../api/errors.ts'
import type { MachineSpec } from '../driver.ts'
import { diskArgument, oneNode, partArguments, quietArguments } from '../kernel-arguments.ts'
import type { Ask } from './api.ts'
import { diskFiles, firecrackerFiles } from './files.ts'

/** Interrupts that Firecracker has to give on x86-64, one to each device. Two go to devices of its own: the generation ID and, in later versions, the clock. */
const INTERRUPTS = 19 - 2
/** What a machine has besides its volumes: two disks, network, vsock, entropy and balloon. */
const OTHER_DEVICES = 6
export const MAX_VOLUMES = INTERRUPTS - OTHER_DEVICES
/** Only a device that was made with statistics tells what it holds. The guest is asked for them as seldom as there is a number for (16 bits, in seconds): an idle one is to write nothing. */
const balloonDevice = { amount_mib: 0, deflate_on_oom: true, stats_polling_interval_s: 65_535 } as const
/** The one network interface. */
const networkId = 'eth0'
/** A guest's own address on vsock: each process has its own socket, so all guests may have the same. */
const GUEST_CID = 3
/** Of the system disk; the others have the names of their specs. */
const SYSTEM_DISK = 'system'

/** A machine is reset where others are turned off, since Firecracker has no power button and ends then. */
const kernelArguments = [
  ...['console=ttyS0', 'panic=-1', 'reboot=k', 'hypeman.off=reset', 'i8042.nopnp', 'i8042.noaux', 'i8042.nomux'],
  oneNode,
  ...quietArguments,
]

export interface Drive {
  readonly drive_id: string
  readonly path_on_host: string
  readonly is_root_device: boolean
  readonly is_read_only: boolean
}

/** In the order in which the kernel finds them: `/dev/vda`, `/dev/vdb`, … The system disk is the second. */
export function drivesOf(spec: MachineSpec): readonly Drive[] {
  const [rootfs, ...volumes] = spec.disks.map((disk) => ({
    drive_id: driveId(disk.id),
    path_on_host: disk.path,
    is_root_device: false,
    is_read_only: disk.readOnly,
  }))
  const system = { drive_id: SYSTEM_DISK, path_on_host: diskFiles.live, is_root_device: false, is_read_only: false }
  return [...(rootfs === undefined ? [] : [rootfs]), system, ...volumes]
}

/** Firecracker takes letters, digits and underscores. */
function driveId(id: string): string {
  return id.replaceAll('-', '_')
}

/** Everything up to the start, in order. */
export function bootRequests(spec: MachineSpec, kernel: string): readonly Ask[] {
  const put = (path: string, body: object): Ask => ({ method: 'PUT', path, body })
  const { network } = spec
  return [
    put('/machine-config', { vcpu_count: spec.vcpus, mem_size_mib: spec.memoryMib, track_dirty_pages: true }),
    put('/boot-source', { kernel_image_path: kernel, initrd_path: spec.initrd, boot_args: commandLine(spec) }),
    ...drivesOf(spec).map((drive) => put(`/drives/${drive.drive_id}`, { ...drive, ...limiterOf(spec) })),
    ...(network === null
      ? []
      : [put(`/network-interfaces/${networkId}`, { iface_id: networkId, guest_mac: network.mac, host_dev_name: tapOf(network) })]),
    put('/vsock', { guest_cid: GUEST_CID, uds_path: firecrackerFiles.vsock }),
    put('/entropy', {}),
    put('/balloon', balloonDevice),
  ]
}

function commandLine(spec: MachineSpec): string {
  const disks = [...spec.disks.slice(0, 1).map(({ id }) => id), SYSTEM_DISK, ...spec.disks.slice(1).map(({ id }) => id)]
  return [...kernelArguments, diskArgument(disks), ...partArguments(spec)].join(' ')
}

/** What a fresh process is told to go on from a memory image; its paths are those of the directory. */
export function loadRequest(spec: MachineSpec, files: { readonly state: string; readonly memory: string }): Ask {
  const { network } = spec
  return {
    method: 'PUT',
    path: '/snapshot/load',
    body: {
      snapshot_path: files.state,
      mem_backend: { backend_type: 'File', backend_path: files.memory },
      // The older of its two names, which all versions take.
      enable_diff_snapshots: true,
      resume_vm: false,
      ...(network === null ? {} : { network_overrides: [{ iface_id: networkId, host_dev_name: tapOf(network) }] }),
    },
  }
}

/** The limits of disks are part of the device state: what holds now is set anew. */
export function limitRequests(spec: MachineSpec): readonly Ask[] {
  const unlimited = { rate_limiter: { bandwidth: { size: 0, refill_time: 0 } } }
  const limit = spec.diskBytesPerSecond === null ? unlimited : limiterOf(spec)
  return drivesOf(spec).map(({ drive_id: id }) => ({ method: 'PATCH', path: `/drives/${id}`, body: { drive_id: id, ...limit } }))
}

/** Each disk has a limiter of its own, so each gets its share of what all together may do. */
function limiterOf(spec: MachineSpec): { readonly rate_limiter?: object } {
  if (spec.diskBytesPerSecond === null) return {}
  const share = Math.max(1, Math.floor(spec.diskBytesPerSecond / drivesOf(spec).length))
  return { rate_limiter: { bandwidth: { size: share, refill_time: 1_000 } } }
}

function tapOf(network: NonNullable<MachineSpec['network']>): string {
  if (network.kind === 'tap') return network.device
  throw new HypemanError(
    'not_supported',
    'Firecracker has no network of its own: it needs a network by host devices; create the instance with network.enabled: false, or have the server make tap networks',
  )
}
