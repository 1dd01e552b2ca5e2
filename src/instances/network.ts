// An instance's network: of which kind it is, what the machine gets of it, and what of the host belongs to it while the machine is there.

import { isIPv6 } from 'node:net'
import type { GuestNetwork } from '../agent/contract.ts'
import { HypemanError } from '../api/errors.ts'
import type { Hypervisor, NetworkSpec } from '../hypervisors/driver.ts'
import { allocatePorts, userModeAddress, userModeNetwork, type Bandwidth, type PublishedPort } from '../networks/index.ts'
import { messageOf } from '../platform/flow.ts'
import { newMac } from '../platform/ids.ts'
import type { InstanceContext } from './context.ts'
import type { InstanceRecord } from './record.ts'

type Network = NonNullable<InstanceRecord['network']>

/** What a request asks for. */
export interface WantedNetwork extends Bandwidth {
  readonly ports: readonly PublishedPort[]
}

const noLimits: Bandwidth = { downloadBytesPerSecond: null, uploadBytesPerSecond: null }

/** The network of a new instance. Refuses what this server or the hypervisor can't do; its address is chosen when it starts. */
export async function newNetwork(context: InstanceContext, driver: Hypervisor, wanted: WantedNetwork): Promise<Network> {
  const { ports, downloadBytesPerSecond, uploadBytesPerSecond } = wanted
  const limits = { downloadBytesPerSecond, uploadBytesPerSecond }
  const network = networkOf(kindFor(context, driver, limits), ports, limits)
  await demandNetwork(context, network)
  return network
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
  const forked = networkOf(kindAmong(driver, network.kind), ports, limitsOf(network))
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
  return kind === network.kind ? network : { ...networkOf(kind, network.ports, limitsOf(network)), mac: network.mac }
}

/** Where a new instance is that asks for nothing special. */
export function usualKind({ settings }: Pick<InstanceContext, 'settings'>, driver: Hypervisor): Network['kind'] | undefined {
  return settings.networkMode === 'auto' ? driver.networks[0] : settings.networkMode
}

function kindFor({ settings }: InstanceContext, driver: Hypervisor, limits: Bandwidth): Network['kind'] {
  const isLimited = hasLimits(limits)
  const kind =
    settings.networkMode !== 'auto' ? settings.networkMode : isLimited && driver.networks.includes('tap') ? 'tap' : usualOf(driver)
  if (!driver.networks.includes(kind))
    throw new HypemanError(
      'not_supported',
      `network: ${driver.name} has none of the kind that network.mode says (${kind}); set it to auto, or choose another hypervisor`,
    )
  if (isLimited && kind === 'user')
    throw new HypemanError(
      'not_supported',
      `${limitField(limits)}: a network in user mode can't be limited; set network.mode to auto or tap, or leave the field out`,
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

function networkOf(kind: Network['kind'], ports: Network['ports'], limits: Bandwidth): Network {
  if (kind === 'user') {
    if (hasLimits(limits))
      throw new HypemanError(
        'not_supported',
        `${limitField(limits)}: a network in user mode can't be limited; choose a hypervisor that can have tap devices`,
      )
    return { kind, mac: newMac(), ports }
  }
  const foreign = ports.find(({ hostAddress }) => isIPv6(hostAddress))
  if (foreign !== undefined)
    throw new HypemanError(
      'invalid_request',
      `network.ports: guests on tap devices have IPv4 alone, so nothing can be published on ${foreign.hostAddress}; publish it on an IPv4 address of the host`,
    )
  return { kind, mac: newMac(), ports, address: null, ...limits }
}

function noTap(reason: string, limits: Bandwidth): HypemanError {
  return hasLimits(limits)
    ? new HypemanError('not_supported', `${limitField(limits)}: a limit needs a tap device, and ${reason}`)
    : new HypemanError('host_unavailable', `no guest can be on a tap device here: ${reason}`)
}

function limitsOf(network: Network): Bandwidth {
  if (network.kind === 'user') return noLimits
  return { downloadBytesPerSecond: network.downloadBytesPerSecond, uploadBytesPerSecond: network.uploadBytesPerSecond }
}

function hasLimits({ downloadBytesPerSecond, uploadBytesPerSecond }: Bandwidth): boolean {
  return downloadBytesPerSecond !== null || uploadBytesPerSecond !== null
}

function limitField({ downloadBytesPerSecond }: Bandwidth): string {
  return downloadBytesPerSecond === null ? 'network.bandwidth_upload' : 'network.bandwidth_download'
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
