// An instance as the wire shows it. Pure but for the look at the VMM that the state is derived from.

import { formatBandwidth, formatRate, formatSize } from '../api/units.ts'
import type { Unreadable } from '../api/schemas/unreadable.ts'
import type { InstanceView } from '../api/schemas/instance.ts'
import { autoStandbyViewOf } from './auto-standby.ts'
import type { InstanceEntry } from './entry.ts'
import { healthViewOf } from './health.ts'
import { phaseViewOf } from './phases.ts'
import type { InstanceRecord } from './record.ts'
import { restartViewOf } from './restart-policy.ts'
import { addressOf } from './network.ts'
import { fileNamesOf, namesOf } from './secrets.ts'
import { snapshotPolicyViewOf } from './snapshot-policy.ts'
import { standbyCompressionViewOf } from './standby-compression-view.ts'

export async function viewOf(entry: InstanceEntry): Promise<InstanceView> {
  const { state, error } = await entry.observe()
  const { record } = entry
  return {
    id: record.id,
    name: record.name,
    image: record.image.name,
    state,
    created_at: record.createdAt,
    expires_at: record.expiresAt,
    started_at: record.startedAt,
    stopped_at: record.stoppedAt,
    ...(error === undefined ? {} : { state_error: error }),
    ...exitOf(record),
    size: formatSize(record.memoryBytes),
    hotplug_size: formatSize(record.hotplugBytes),
    overlay_size: formatSize(record.overlayBytes),
    vcpus: record.vcpus,
    ...(record.diskBytesPerSecond === null ? {} : { disk_io_bps: formatRate(record.diskBytesPerSecond) }),
    ...(isEmpty(record.env) ? {} : { env: { ...record.env } }),
    ...secretsOf(record),
    ...(record.owner === null ? {} : { owner: record.owner }),
    ...(isEmpty(record.tags) ? {} : { tags: { ...record.tags } }),
    ...(record.volumes.length === 0 ? {} : { volumes: record.volumes.map(volumeOf) }),
    network: networkOf(record),
    hypervisor: record.hypervisor,
    platform: record.image.platform,
    has_snapshot: entry.holdsMemory && state === 'Standby',
    ...snapshotPolicyViewOf(record.snapshotPolicy),
    ...standbyCompressionViewOf(entry, state, Date.now()),
    ...(record.balloon === null ? {} : { memory_reclaim: { asked_bytes: record.balloon.bytes, hold_until: record.balloon.until } }),
    ...autoStandbyViewOf(record.autoStandby),
    ...healthViewOf(record, entry.health, state),
    ...restartViewOf(record, Date.now()),
    ...phaseViewOf(record.phases, Date.now()),
    ...(record.unsafeFork === null ? {} : { unsafe_fork: record.unsafeFork }),
    ...(record.forkedFrom === null ? {} : { forked_from: forkOf(record.forkedFrom) }),
  }
}

/** What can be told of an instance whose record can't be read: that it is there, and why nothing else is. */
export function unreadableViewOf({ id, reason, created_at }: Unreadable): InstanceView {
  return { id, name: id, image: '', state: 'Unknown', state_error: reason, created_at, expires_at: null }
}

function secretsOf({ secrets }: InstanceRecord): Pick<InstanceView, 'secret_env_names' | 'secret_files'> {
  const [names, files] = [[...namesOf(secrets)], [...fileNamesOf(secrets)]]
  return { ...(names.length === 0 ? {} : { secret_env_names: names }), ...(files.length === 0 ? {} : { secret_files: files }) }
}

function exitOf({ exit }: InstanceRecord): Pick<InstanceView, 'exit_code' | 'exit_message'> {
  return exit === null ? {} : { exit_code: exit.code, exit_message: exit.message }
}

function volumeOf(volume: InstanceRecord['volumes'][number]): NonNullable<InstanceView['volumes']>[number] {
  const { overlay } = volume
  return {
    volume_id: volume.volumeId,
    mount_path: volume.mountPath,
    readonly: volume.readOnly,
    ...(overlay === null ? {} : { overlay: true, overlay_size: formatSize(overlay.sizeBytes) }),
  }
}

function networkOf({ network }: InstanceRecord): NonNullable<InstanceView['network']> {
  if (network === null) return { enabled: false, ip: null, mac: null }
  const ports = network.ports.map((port) => ({
    guest_port: port.guestPort,
    host_port: port.hostPort,
    protocol: port.protocol,
    host_address: port.hostAddress,
  }))
  return {
    enabled: true,
    name: 'default',
    ip: addressOf(network),
    mac: network.mac,
    ...restraintsOf(network),
    ...(ports.length === 0 ? {} : { ports }),
  }
}

function restraintsOf(
  network: NonNullable<InstanceRecord['network']>,
): Pick<NonNullable<InstanceView['network']>, 'bandwidth_download' | 'bandwidth_upload' | 'egress'> {
  if (network.kind === 'user') return {}
  const { downloadBytesPerSecond: down, uploadBytesPerSecond: up, egress: mode } = network
  return {
    ...(down === null ? {} : { bandwidth_download: formatBandwidth(down) }),
    ...(up === null ? {} : { bandwidth_upload: formatBandwidth(up) }),
    ...(mode === null ? {} : { egress: { enabled: true, enforcement: { mode } } }),
  }
}

function forkOf(from: NonNullable<InstanceRecord['forkedFrom']>): NonNullable<InstanceView['forked_from']> {
  return { instance_id: from.instanceId, ...(from.snapshotId === null ? {} : { snapshot_id: from.snapshotId }) }
}

function isEmpty(pairs: Readonly<Record<string, string>>): boolean {
  return Object.keys(pairs).length === 0
}
