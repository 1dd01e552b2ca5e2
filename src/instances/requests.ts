// From checked bodies of the wire to what the flows take: sizes in bytes, lifetimes as times, ports and volumes by id.

import { HypemanError } from '../api/errors.ts'
import type { CreateInstanceBody } from '../api/schemas/instance-requests.ts'
import { parseDuration, parseSize } from '../api/units.ts'
import type { PublishedPort } from '../networks/index.ts'
import type { InstanceContext } from './context.ts'
import type { CreateInstance } from './create.ts'
import { plainPath } from './volumes.ts'

export function createRequestOf(context: InstanceContext, body: CreateInstanceBody): CreateInstance {
  return {
    name: body.name,
    image: body.image,
    hypervisor: body.hypervisor,
    vcpus: body.vcpus,
    memoryBytes: bytesOf(body.size),
    hotplugBytes: bytesOf(body.hotplug_size ?? '0'),
    overlayBytes: bytesOf(body.overlay_size),
    env: body.env,
    tags: body.tags,
    entrypoint: body.entrypoint,
    cmd: body.cmd,
    volumes: body.volumes.map((volume) => ({
      volumeId: context.volumes.resolve(volume.volume_id),
      mountPath: plainPath(volume.mount_path),
      readOnly: volume.readonly ?? false,
    })),
    ports: portsOf(body.network),
    skipGuestAgent: body.skip_guest_agent,
    expiresAt: expiryOf(body) ?? null,
  }
}

/** When the thing shall be deleted: null for never, undefined if the body does not say. */
export function expiryOf(body: { readonly ttl?: string | undefined; readonly expires_at?: string | undefined }): string | null | undefined {
  if (body.expires_at !== undefined) {
    const time = new Date(body.expires_at)
    if (time.getTime() > Date.now()) return time.toISOString()
    throw new HypemanError('invalid_expires_at', `expires_at: ${body.expires_at} is in the past; give a time in the future`)
  }
  if (body.ttl === undefined) return undefined
  const ttlMs = parseDuration(body.ttl)
  if (ttlMs === undefined || ttlMs < 0) throw new HypemanError('invalid_ttl', `ttl: ${body.ttl} is not a duration such as 30m or 24h`)
  if (ttlMs === 0) return null
  return new Date(Date.now() + ttlMs).toISOString()
}

function portsOf(network: CreateInstanceBody['network']): readonly PublishedPort[] | undefined {
  if (network?.enabled === false) {
    if (network.ports.length === 0) return undefined
    throw new HypemanError('invalid_request', 'network.ports: ports need a network; set network.enabled to true or leave the ports out')
  }
  return (network?.ports ?? []).map((port) => ({
    guestPort: port.guest_port,
    hostPort: port.host_port,
    protocol: port.protocol,
    hostAddress: port.host_address,
    automatic: port.host_port === 0,
  }))
}

/** The schema has checked the text. */
function bytesOf(size: string): number {
  return parseSize(size) ?? 0
}
