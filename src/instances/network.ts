// An instance's network: of which kind it is, what the machine gets of it, and what of the host belongs to it while the machine is there.

import { isIPv6 } from 'node:net'
import type { GuestNetwork } from '../agent/contract.ts'
import { HypemanError } from '../api/errors.ts'
import type { EgressMode } from '../api/schemas/egress.ts'
import type { Hypervisor, NetworkSpec } from '../hypervisors/driver.ts'
import { allocatePorts, userModeAddress, userModeNetwork, type Bandwidth, type PublishedPort } from '../networks/index.ts'
import { messageOf } from '../platform/flow.ts'
import { newMac } from '../platform/ids.ts'
import type { InstanceContext } from './context.ts'
import type { HealthCheck } from './health.ts'
import { whyNotInUserMode } from './host-check.ts'
import type { InstanceRecord } from './record.ts'
import { bandwidthShareOf } from './shares.ts'

type Network = NonNullable<InstanceRecord['network']>

/** What a guest is held to, which only a device of the host can do. */
interface Restraints extends Bandwidth {
  readonly egress: EgressMode | null
}

/** What a request asks for. */
export interface WantedNetwork {
  readonly ports: readonly PublishedPort[]
  /** Null: no limit. Undefined: its share on a device of the host, where there is one, and no limit else. */
  readonly downloadBytesPerSecond: number | null | undefined
  readonly uploadBytesPerSecond: number | null | undefined
  readonly egress: EgressMode | null
}

/** What else of a new instance decides about its network. */
interface Owner {
  readonly vcpus: number
  /** The check that the host shall make, for which the host has to reach the guest. */
  readonly hostCheck: HealthCheck | null
}

const noRestraints: Restraints = { downloadBytesPerSecond: null, uploadBytesPerSecond: null, egress: null }

/**
 * The network of a new instance. Refuses what this server or the hypervisor can't do; its address is chosen when it starts. Where it is follows from what was asked
 * for alone: a share of the bandwidth moves nobody to a device of the host.
 */
export async function newNetwork(
  context: InstanceContext,
  driver: Hypervisor,
  wanted: WantedNetwork,
  { vcpus, hostCheck }: Owner,
): Promise<Network> {
  const { ports, downloadBytesPerSecond: down, uploadBytesPerSecond: up, egress } = wanted
  const restraints = { downloadBytesPerSecond: down ?? null, uploadBytesPerSecond: up ?? null, egress }
  const usual = kindFor(context, driver, restraints)
  const unreached = usual === 'user' && hostCheck !== null ? whyNotInUserMode(hostCheck.probe, ports) : undefined
  const kind = unreached !== undefined && context.settings.networkMode === 'auto' && driver.networks.includes('tap') ? 'tap' : usual
  if (unreached !== undefined) await demandReach(context, kind, unreached)
  const network = networkOf(kind, ports, restraints)
  await demandNetwork(context, network)
  if (network.kind === 'user' || (down !== undefined && up !== undefined)) return network
  const share = await bandwidthShareOf(context, vcpus)
  return { ...network, downloadBytesPerSecond: down === undefined ? share : down, uploadBytesPerSecond: up === undefined ? share : up }
}

/** Refuses a health check that the host can't make in user mode, unless the guest can be on a tap device instead. */
async function demandReach({ hostNetwork }: InstanceContext, kind: Network['kind'], unreached: string): Promise<void> {
  const noTapReason =
    kind === 'user'
      ? 'there is none for it: set network.mode to auto or tap, or choose a hypervisor that can have them'
      : await hostNetwork.unavailable()
  if (noTapReason !== undefined)
    throw new HypemanError(
      'invalid_health_check',
      `health_check: with skip_guest_agent the host makes it, and ${unreached}; it needs a tap device, and ${noTapReason}`,
    )
}

/** Refuses a network that this host can't make. */
export async function demandNetwork({ hostNetwork }: Pick<InstanceContext, 'hostNetwork'>, network: Network): Promise<void> {
  if (network.kind !== 'tap') return
  const reason = await hostNetwork.unavailable()
  if (reason !== undefined) throw noTap(reason, network)
}

/** Where a guest has its own address, as its own programs and the host's see it; null while one on a tap device does not run. */
export function addressOf(network: Network): string | null {
  return network.kind === 'user' ? userModeAddress : network.address
}

/** What a fork has instead of its source's network: the same, and nothing that others could have, too. `mac`: of one that was loaded with it already. */
export function forkedNetwork(driver: Hypervisor, network: Network, mac?: string | null): Network {
  const ports = network.ports.map((port) => ({ ...port, hostPort: 0, automatic: true }))
  const forked = networkOf(kindAmong(driver, network.kind), ports, restraintsOf(network))
  return typeof mac === 'string' ? { ...forked, mac } : forked
}

/** The network of an instance that a snapshot is restored to: its own, if there was one in the snapshot, on what the hypervisor can do. */
export function restoredNetwork(
  driver: Hypervisor,
  snapshot: InstanceRecord['network'],
  present: InstanceRecord['network'],
): InstanceRecord['network'] {
  if (snapshot === null) return null
  const network = present ?? snapshot
  const kind = kindAmong(driver, network.kind)
  return kind === network.kind ? network : { ...networkOf(kind, network.ports, restraintsOf(network)), mac: network.mac }
}

/** Where a new instance is that asks for nothing special. */
export function usualKind({ settings }: Pick<InstanceContext, 'settings'>, driver: Hypervisor): Network['kind'] | undefined {
  return settings.networkMode === 'auto' ? driver.networks[0] : settings.networkMode
}

function kindFor({ settings }: InstanceContext, driver: Hypervisor, restraints: Restraints): Network['kind'] {
  const field = restrainingField(restraints)
  const kind =
    settings.networkMode !== 'auto'
      ? settings.networkMode
      : field !== undefined && driver.networks.includes('tap')
        ? 'tap'
        : usualOf(driver)
  if (!driver.networks.includes(kind))
    throw new HypemanError(
      'not_supported',
      `network: ${driver.name} has none of the kind that network.mode says (${kind}); set it to auto, or choose another hypervisor`,
    )
  if (field !== undefined && kind === 'user')
    throw new HypemanError(
      'not_supported',
      `${field}: a network in user mode can't be held to it; set network.mode to auto or tap, or leave the field out`,
    )
  return kind
}

/** Of one that exists already: as it is, if the hypervisor has such. */
function kindAmong(driver: Hypervisor, kind: Network['kind']): Network['kind'] {
  return driver.networks.includes(kind) ? kind : usualOf(driver)
}

function usualOf({ name, networks: [usual] }: Hypervisor): Network['kind'] {
  if (usual === undefined) throw new HypemanError('not_supported', `network: ${name} has none; set network.enabled to false`)
  return usual
}

function networkOf(kind: Network['kind'], ports: Network['ports'], restraints: Restraints): Network {
  if (kind === 'user') {
    const field = restrainingField(restraints)
    if (field !== undefined)
      throw new HypemanError(
        'not_supported',
        `${field}: a network in user mode can't be held to it; choose a hypervisor that can have tap devices`,
      )
    return { kind, mac: newMac(), ports }
  }
  const foreign = ports.find(({ hostAddress }) => isIPv6(hostAddress))
  if (foreign !== undefined)
    throw new HypemanError(
      'invalid_request',
      `network.ports: guests on tap devices have IPv4 alone, so nothing can be published on ${foreign.hostAddress}; publish it on an IPv4 address of the host`,
    )
  return { kind, mac: newMac(), ports, address: null, ...restraints }
}

function noTap(reason: string, restraints: Restraints): HypemanError {
  const field = restrainingField(restraints)
  return field !== undefined
    ? new HypemanError('not_supported', `${field}: it needs a tap device, and ${reason}`)
    : new HypemanError('host_unavailable', `no guest can be on a tap device here: ${reason}`)
}

function restraintsOf(network: Network): Restraints {
  if (network.kind === 'user') return noRestraints
  const { downloadBytesPerSecond, uploadBytesPerSecond, egress } = network
  return { downloadBytesPerSecond, uploadBytesPerSecond, egress }
}

/** The field of the wire that asks for a restraint; undefined if none does. */
function restrainingField({ downloadBytesPerSecond, uploadBytesPerSecond, egress }: Restraints): string | undefined {
  if (downloadBytesPerSecond !== null) return 'network.bandwidth_download'
  if (uploadBytesPerSecond !== null) return 'network.bandwidth_upload'
  return egress === null ? undefined : 'network.egress'
}

/**
 * The network that an instance starts on: host ports are chosen, and an address, unless it may keep the one that it had. They are nobody else's until the result is
 * disposed of; by then the VMM or the host's rules have them, and they are in the record.
 */
export async function claimNetwork(
  context: InstanceContext,
  { id, network }: InstanceRecord,
): Promise<{ readonly network: InstanceRecord['network'] } & Disposable> {
  if (network === null) return { network, [Symbol.dispose]: () => undefined }
  // Of a machine that has ended just now: its ports are to be this one's.
  if (network.kind === 'tap') await context.hostNetwork.detach(id)
  using held = new DisposableStack()
  const { ports } = held.use(await allocatePorts(network.ports))
  if (network.kind === 'user') return claimed({ ...network, ports }, held.move())
  const isTaken = (address: string): boolean => isAddressOfOther(context, id, address)
  const kept = network.address
  const isKept = kept !== null && !isTaken(kept) && (await context.hostNetwork.isUsable(kept))
  const address = isKept ? kept : held.use(await context.hostNetwork.reserveAddress(isTaken)).address
  return claimed({ ...network, ports, address }, held.move())
}

function claimed(network: Network, held: DisposableStack): { readonly network: Network } & Disposable {
  return { network, [Symbol.dispose]: () => held.dispose() }
}

function isAddressOfOther({ store }: InstanceContext, id: string, address: string): boolean {
  return store.entries().some(({ record }) => record.id !== id && record.network?.kind === 'tap' && record.network.address === address)
}

/** Makes what of the host the machine needs; nothing if it is in user mode. `network` is what was claimed. */
export async function attachNetwork(context: InstanceContext, id: string, network: InstanceRecord['network']): Promise<void> {
  if (network?.kind !== 'tap') return
  await context.hostNetwork.attach({ id, ...network })
}

/** Takes that away when the machine is gone. What can't be taken away is told in the log, and tried again by the network. */
export async function releaseNetwork(context: InstanceContext, { id, network }: InstanceRecord): Promise<void> {
  if (network?.kind !== 'tap') return
  try {
    await context.hostNetwork.detach(id)
  } catch (error) {
    context.log.warn({ instance: id, error: messageOf(error) }, "not all of an instance's network on the host could be removed")
  }
}

/** At start, before anything ends or begins: the devices and ports of machines that may be there stay, those of others go. */
export async function recoverNetworks({ store, hostNetwork }: InstanceContext): Promise<void> {
  const running = store
    .entries()
    .flatMap(({ id, record: { network }, mayHaveVmm }) => (network?.kind === 'tap' && mayHaveVmm ? [{ id, ...network }] : []))
  // Nobody can tell what those have that can't be read: it stays.
  await hostNetwork.recover([...running], new Set(store.unreadable().map(({ id }) => id)))
}

/** What the machine gets. */
export function networkSpecOf({ hostNetwork }: InstanceContext, { id, network }: InstanceRecord): NetworkSpec | null {
  if (network === null) return null
  if (network.kind === 'user') return { kind: 'user', mac: network.mac, ports: network.ports }
  return { kind: 'tap', mac: network.mac, device: hostNetwork.deviceOf(id) }
}

/** What the guest is told. */
export async function guestNetworkOf({ hostNetwork }: InstanceContext, { name, network }: InstanceRecord): Promise<GuestNetwork | null> {
  if (network === null) return null
  if (network.kind === 'user') return userModeNetwork(network.mac)
  if (network.address === null) throw new Error(`the instance ${name} runs without an address`)
  return hostNetwork.describe(network.mac, network.address)
}

/**
 * How programs learn of the proxy of a guest that has no other way out, each variable in both spellings that are in use; `own` are the instance's variables: one that it has in either spelling is its own affair. What
 * the proxy would refuse is not to be asked of it: the guest itself, and the host.
 */
export function proxyVariablesOf(
  { hostNetwork }: InstanceContext,
  { network }: Pick<InstanceRecord, 'network'>,
  own: Readonly<Record<string, string>>,
): Readonly<Record<string, string>> {
  if (network?.kind !== 'tap' || network.egress === null) return {}
  const { proxyUrl, gateway } = hostNetwork
  const variables = { http_proxy: proxyUrl, https_proxy: proxyUrl, no_proxy: `localhost,127.0.0.1,${gateway}` }
  return Object.fromEntries(
    Object.entries(variables).flatMap(([name, value]) => {
      const names = [name, name.toUpperCase()]
      return names.some((one) => Object.hasOwn(own, one)) ? [] : names.map((one) => [one, value])
    }),
  )
}
