// From checked bodies of the wire to what the flows take: sizes in bytes, lifetimes as times, ports and volumes by id.

import { HypemanError } from '../api/errors.ts'
import type { CreateInstanceBody, UpdateInstanceBody } from '../api/schemas/instance-requests.ts'
import type { StandbyInstanceBody } from '../api/schemas/snapshot-policy.ts'
import { formatRate, parseBandwidth, parseDuration, parseRate, parseSize } from '../api/units.ts'
import { autoStandbyOf } from './auto-standby.ts'
import { hostPlatform } from './capabilities.ts'
import type { InstanceContext } from './context.ts'
import type { CreateInstance } from './create.ts'
import { healthCheckOf } from './health.ts'
import { whyNotInUserMode } from './host-check.ts'
import type { WantedNetwork } from './network.ts'
import { checkDiskSize, type WantedVolume } from './overlays.ts'
import type { InstanceRecord } from './record.ts'
import type { InstanceSize } from './resize.ts'
import { afterPolicyChange, policyOf } from './restart-policy.ts'
import { changedEnvironment, isGiven, type EnvironmentChange } from './secrets.ts'
import { bandwidthShares, diskShares } from './shares.ts'
import { snapshotPolicyOf, type StandbyRequest } from './snapshot-policy.ts'
import { plainPath } from './volumes.ts'

export function createRequestOf(context: InstanceContext, body: CreateInstanceBody, by: string): CreateInstance {
  if (body.platform !== undefined && body.platform !== hostPlatform())
    throw new HypemanError('invalid_platform', `platform: this server runs ${hostPlatform()} images, not ${body.platform}`)
  return {
    name: body.name,
    image: body.image,
    hypervisor: body.hypervisor,
    vcpus: body.vcpus,
    memoryBytes: bytesOf(body.size),
    hotplugBytes: bytesOf(body.hotplug_size ?? '0'),
    overlayBytes: bytesOf(body.overlay_size),
    diskBytesPerSecond: diskLimitOf(body.disk_io_bps),
    ...changedEnvironment(context.sealer, { env: {}, secrets: [] }, environmentOf(body), by),
    owner: by,
    tags: body.tags,
    entrypoint: body.entrypoint,
    cmd: body.cmd,
    volumes: body.volumes.map((volume) => attachmentOf(context, volume.volume_id, volume)),
    network: networkOf(body.network),
    skipGuestAgent: body.skip_guest_agent,
    expiresAt: expiryOf(body) ?? null,
    restartPolicy: body.restart_policy === undefined ? null : policyOf(body.restart_policy),
    healthCheck: checkedHealth(body, body.network?.enabled !== false),
    autoStandby: body.auto_standby === undefined ? null : autoStandbyOf(body.auto_standby),
    snapshotPolicy: body.snapshot_policy === undefined ? null : snapshotPolicyOf(body.snapshot_policy),
  }
}

export function standbyRequestOf({ compression, compression_delay: delay }: StandbyInstanceBody): StandbyRequest {
  return { compression, ...(delay === undefined ? {} : { delayMs: parseDuration(delay) ?? 0 }) }
}

/** A volume as an instance shall have it. */
export function attachmentOf(
  context: InstanceContext,
  volumeRef: string,
  body: Omit<CreateInstanceBody['volumes'][number], 'volume_id'>,
): WantedVolume {
  return {
    volumeId: context.volumes.resolve(volumeRef),
    mountPath: plainPath(body.mount_path),
    readOnly: body.readonly ?? false,
    layerBytes: body.overlay === true ? layerBytesOf(context, body) : null,
  }
}

function layerBytesOf(
  { settings }: InstanceContext,
  { readonly, overlay_size: size }: Pick<CreateInstanceBody['volumes'][number], 'readonly' | 'overlay_size'>,
): number {
  if (readonly !== true)
    throw new HypemanError('invalid_request', 'overlay: it lies over a volume that is only read; send readonly: true with it')
  if (size === undefined) throw new HypemanError('invalid_overlay_size', 'overlay_size: say how much may be written, for example 1GB')
  const bytes = bytesOf(size)
  checkDiskSize(settings, bytes)
  return bytes
}

/** A guest with less would not even boot in time, in bytes per second. */
const LEAST_DISK_RATE = 1024 ** 2
const { most: MOST_DISK_RATE } = diskShares

/** Null: no limit; undefined: nothing is said of one. The schema has checked the text. */
function diskLimitOf(text = ''): number | null | undefined {
  if (text === '') return undefined
  const rate = parseRate(text) ?? 0
  if (rate === 0) return null
  if (rate >= LEAST_DISK_RATE && rate <= MOST_DISK_RATE) return rate
  throw new HypemanError('invalid_disk_io_bps', `disk_io_bps: ${text} is not from 1MB/s to ${formatRate(MOST_DISK_RATE)}`)
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

/** What a body says of variables and secret files. */
export function environmentOf(
  body: Pick<UpdateInstanceBody, 'env' | 'secret_env' | 'secret_files' | 'inherit_secrets'>,
): EnvironmentChange {
  return { env: body.env, secretEnv: body.secret_env, secretFiles: body.secret_files, inherit: body.inherit_secrets }
}

/** What an update changes in the record. Throws if it asks for nothing, or for what does not go with the instance. */
export function changeOf(
  { sealer }: Pick<InstanceContext, 'sealer'>,
  body: UpdateInstanceBody,
  by: string,
): (record: InstanceRecord) => Partial<InstanceRecord> {
  const expiresAt = expiryOf(body)
  const { restart_policy: policy, health_check: check, auto_standby: standby } = body
  const environment = environmentOf(body)
  const hasEnv = isGiven(environment) || environment.inherit !== undefined
  if ([expiresAt, policy, check, standby, sizeOf(body)].every((one) => one === undefined) && !hasEnv)
    throw new HypemanError(
      'invalid_request',
      'there is nothing to update; give ttl or expires_at, restart_policy, health_check, auto_standby, size, vcpus, overlay_size, env, secret_env, secret_files or inherit_secrets',
    )
  return (record) => {
    if (expiresAt !== undefined) demandTime(record)
    return {
      ...(standby === undefined ? {} : { autoStandby: autoStandbyOf(standby) }),
      ...(hasEnv ? changedEnvironment(sealer, record, environment, by) : {}),
      ...(expiresAt === undefined ? {} : { expiresAt }),
      ...(policy === undefined
        ? {}
        : { restartPolicy: policyOf(policy), restarts: afterPolicyChange(record, policyOf(policy), Date.now()) }),
      ...(check === undefined ? {} : { healthCheck: changedHealth(check, record) }),
    }
  }
}

/** The size that an update asks for; undefined if it asks for none. */
export function sizeOf({ size, vcpus, overlay_size: overlay }: UpdateInstanceBody): Partial<InstanceSize> | undefined {
  if (size === undefined && vcpus === undefined && overlay === undefined) return undefined
  return {
    ...(size === undefined ? {} : { memoryBytes: bytesOf(size) }),
    ...(vcpus === undefined ? {} : { vcpus }),
    ...(overlay === undefined ? {} : { overlayBytes: bytesOf(overlay) }),
  }
}

/** Until an instance is gone whose time is over, that is not to be undone any more. */
function demandTime({ name, expiresAt }: InstanceRecord): void {
  if (expiresAt !== null && Date.parse(expiresAt) <= Date.now())
    throw new HypemanError('instance_expired', `the instance ${name} has expired (${expiresAt}) and is being deleted`)
}

function checkedHealth(
  { health_check: body, skip_guest_agent: noAgent }: Pick<CreateInstanceBody, 'health_check' | 'skip_guest_agent'>,
  hasNetwork: boolean,
): InstanceRecord['healthCheck'] {
  const check = body === undefined ? null : healthCheckOf(body)
  if (check === null) return null
  if (check.probe.type === 'exec' && noAgent)
    throw new HypemanError(
      'invalid_health_check',
      'health_check: a command is run by the guest agent, which skip_guest_agent leaves alone; use http or tcp',
    )
  if (check.probe.type !== 'exec' && !hasNetwork)
    throw new HypemanError('invalid_health_check', `health_check: ${check.probe.type} needs a network; use exec, or give the instance one`)
  return check
}

/** The network of an instance that exists is what it is. */
function changedHealth(
  body: CreateInstanceBody['health_check'],
  { skipGuestAgent, network }: Pick<InstanceRecord, 'skipGuestAgent' | 'network'>,
): InstanceRecord['healthCheck'] {
  const check = checkedHealth({ health_check: body, skip_guest_agent: skipGuestAgent }, network !== null)
  if (check === null || !skipGuestAgent || network?.kind !== 'user') return check
  const unreached = whyNotInUserMode(check.probe, network.ports)
  if (unreached === undefined) return check
  throw new HypemanError(
    'invalid_health_check',
    `health_check: with skip_guest_agent the host makes it, and ${unreached}; create the instance with this check, or with network.mode tap`,
  )
}

function networkOf(network: CreateInstanceBody['network']): WantedNetwork | undefined {
  if (network?.enabled === false) {
    if (hasLimit(network))
      throw new HypemanError(
        'invalid_request',
        'network.bandwidth_download, bandwidth_upload: there is no network to limit; set network.enabled to true',
      )
    if (network.egress?.enabled === true)
      throw new HypemanError('invalid_request', 'network.egress: there is no network to go out by; set network.enabled to true')
    if (network.ports.length === 0) return undefined
    throw new HypemanError('invalid_request', 'network.ports: ports need a network; set network.enabled to true or leave the ports out')
  }
  const ports = (network?.ports ?? []).map((port) => ({
    guestPort: port.guest_port,
    hostPort: port.host_port,
    protocol: port.protocol,
    hostAddress: port.host_address,
    automatic: port.host_port === 0,
  }))
  return {
    ports,
    downloadBytesPerSecond: bandwidthOf('bandwidth_download', network?.bandwidth_download),
    uploadBytesPerSecond: bandwidthOf('bandwidth_upload', network?.bandwidth_upload),
    egress: network?.egress?.enabled === true ? (network.egress.enforcement?.mode ?? 'all') : null,
  }
}

function hasLimit({ bandwidth_download: down, bandwidth_upload: up }: NonNullable<CreateInstanceBody['network']>): boolean {
  return [down, up].some((text = '') => (parseBandwidth(text) ?? 0) > 0)
}

/** Slower than that a guest would hardly be told from one that hangs, in bytes per second. */
const LEAST_BANDWIDTH = 1_000
const { most: MOST_BANDWIDTH } = bandwidthShares

/** As `diskLimitOf`. */
function bandwidthOf(field: 'bandwidth_download' | 'bandwidth_upload', text = ''): number | null | undefined {
  if (text === '') return undefined
  const bytes = parseBandwidth(text) ?? 0
  if (bytes === 0) return null
  if (bytes >= LEAST_BANDWIDTH && bytes <= MOST_BANDWIDTH) return bytes
  throw new HypemanError(`invalid_${field}`, `network.${field}: ${text} is not from 8kbps to 8Tbps`)
}

/** The schema has checked the text. */
function bytesOf(size: string): number {
  return parseSize(size) ?? 0
}
