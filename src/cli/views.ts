// What people see of each resource in a table.

import type { Image, Instance, PortMapping, Push, Snapshot, Volume } from '../client/client.ts'
import { styleState } from './context.ts'
import type { Column } from './output/table.ts'
import { ago, imageName, keyValues, shortId, size } from './output/text.ts'

export const instanceColumns: readonly Column<Instance>[] = [
  { title: 'INSTANCE ID', value: (instance) => shortId(instance.id) },
  { title: 'NAME', value: (instance) => instance.name, cut: true },
  { title: 'IMAGE', value: (instance) => imageName(instance.image), cut: true },
  { title: 'STATE', value: stateOf, style: (text, instance) => styleState(instance.state, text), cut: true },
  { title: 'HV', value: (instance) => instance.hypervisor ?? '-' },
  { title: 'PORTS', value: (instance) => ports(instance.network?.ports), cut: true },
  { title: 'CREATED', value: (instance) => ago(instance.created_at) },
]

function stateOf(instance: Instance): string {
  if (instance.state === 'Unknown' && instance.state_error) return `Unknown: ${instance.state_error}`
  const health = instance.state === 'Running' ? instance.health_status?.status : undefined
  if (health === 'healthy' || health === 'unhealthy') return `${instance.state} (${health})`
  const ended = instance.state === 'Stopped' || instance.state === 'Shutdown'
  return ended && typeof instance.exit_code === 'number' ? `${instance.state} (${instance.exit_code})` : instance.state
}

/** `127.0.0.1:8080->80/tcp`, as docker writes it. */
function ports(mappings: readonly PortMapping[] | undefined): string {
  return (mappings ?? [])
    .map((port) => {
      const address = port.host_address ?? '127.0.0.1'
      return `${address.includes(':') ? `[${address}]` : address}:${port.host_port}->${port.guest_port}/${port.protocol ?? 'tcp'}`
    })
    .join(', ')
}

export const imageColumns: readonly Column<Image>[] = [
  { title: 'NAME', value: (image) => imageName(image.name), cut: true },
  { title: 'DIGEST', value: (image) => image.digest.replace(/^sha256:/, '').slice(0, 12) },
  { title: 'STATUS', value: (image) => (image.error ? `${image.status}: ${image.error}` : image.status), cut: true },
  { title: 'PLATFORM', value: (image) => image.platform ?? '-' },
  { title: 'SIZE', value: (image) => size(image.size_bytes), right: true },
  { title: 'CREATED', value: (image) => ago(image.created_at) },
]

export const pushColumns: readonly Column<Push>[] = [
  { title: 'PUSH ID', value: (push) => shortId(push.id) },
  { title: 'IMAGE', value: (push) => imageName(push.image), cut: true },
  { title: 'TARGET', value: (push) => imageName(push.target), cut: true },
  { title: 'STATUS', value: (push) => (push.error ? `${push.status}: ${push.error}` : push.status), cut: true },
  { title: 'SIZE', value: (push) => size(push.bytes), right: true },
  { title: 'CREATED', value: (push) => ago(push.created_at) },
]

export const snapshotColumns: readonly Column<Snapshot>[] = [
  { title: 'SNAPSHOT ID', value: (snapshot) => shortId(snapshot.id) },
  { title: 'NAME', value: (snapshot) => snapshot.name ?? '-', cut: true },
  { title: 'KIND', value: (snapshot) => snapshot.kind },
  { title: 'SOURCE', value: (snapshot) => snapshot.source_instance_name, cut: true },
  { title: 'HV', value: (snapshot) => snapshot.source_hypervisor },
  { title: 'ON DISK', value: (snapshot) => size(snapshot.allocated_bytes), right: true },
  { title: 'COMPRESSED', value: compressed, cut: true },
  { title: 'CREATED', value: (snapshot) => ago(snapshot.created_at) },
]

/** `zstd (18 MB of 256 MB)`, or how far it is. */
function compressed({ compression, compression_state: state, ...snapshot }: Snapshot): string {
  if (compression?.enabled !== true) return '-'
  if (state === 'error') return `failed: ${snapshot.compression_error ?? 'no reason given'}`
  if (state === 'compressing') return 'compressing'
  if (state !== 'compressed') return 'not yet'
  return `${compression.algorithm ?? 'zstd'} (${size(snapshot.compressed_size_bytes)} of ${size(snapshot.uncompressed_size_bytes)})`
}

export const volumeColumns: readonly Column<Volume>[] = [
  { title: 'VOLUME ID', value: (volume) => shortId(volume.id) },
  { title: 'NAME', value: (volume) => volume.name, cut: true },
  { title: 'SIZE', value: (volume) => `${volume.size_gb} GB`, right: true },
  {
    title: 'USED BY',
    value: (volume) =>
      (volume.attachments ?? []).map((use) => `${shortId(use.instance_id)}:${use.mount_path}${use.readonly ? ':ro' : ''}`).join(', '),
    cut: true,
  },
  { title: 'TAGS', value: (volume) => keyValues(volume.tags), cut: true },
  { title: 'CREATED', value: (volume) => ago(volume.created_at) },
]
