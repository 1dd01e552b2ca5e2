// The network of guests that have a device of the host: a tap for each, which leads to that guest alone, addresses out of one subnet, and rules of the firewall that lead out, and
// in by published ports. What is there is told by the records of instances: this keeps no table of its own on disk (docs/networks.md).

import { readFile, writeFile } from 'node:fs/promises'
import type { Logger } from 'pino'
import type { GuestNetwork } from '../agent/contract.ts'
import { HypemanError } from '../api/errors.ts'
import type { EgressMode } from '../api/schemas/egress.ts'
import { messageOf } from '../platform/flow.ts'
import { whyNotTap } from '../platform/host-rights.ts'
import { addressOf, numberOf, type Subnet } from '../platform/ipv4.ts'
import { applyRules, savedRules } from './apply-rules.ts'
import { createEgress } from './egress.ts'
import { guestFlows, type GuestFlow } from './flows.ts'
import { holdPorts } from './held-ports.ts'
import { anyTap, networkNames } from './names.ts'
import type { PublishedPort } from './ports.ts'
import { hasRules, presentJumps, removalText, restrictionsOf, rulesText, type Mediated, type Source } from './rules.ts'
import { limitProbe, removeShaper, setLimits, type Bandwidth } from './shaping.ts'
import { freeAddress, isGuestAddress, overlaps } from './subnet.ts'
import { guestMtu, hostRoutes, isLenient, resolversForGuests } from './surroundings.ts'
import { listDevices, makeTap, removeTap } from './tap-device.ts'

export interface HostNetworkSettings {
  readonly subnet: Subnet
  /** Absent: the host's own resolvers. */
  readonly dnsServer?: string | undefined
  /** Port of the proxy on the gateway's address, for guests that have no other way out. */
  readonly egressPort: number
}

/** What a machine is on this network. */
export interface Attachment extends Bandwidth {
  /** The instance's. */
  readonly id: string
  /** Null: the device leads nowhere yet. */
  readonly address: string | null
  readonly ports: readonly PublishedPort[]
  /** Null: it goes out directly. */
  readonly egress: EgressMode | null
}

/** Calls about one id are made one after the other: its caller has the instance's lock. */
export interface HostNetwork extends AsyncDisposable {
  /** In CIDR notation, and the host's own address in it. */
  readonly subnet: string
  readonly gateway: string
  /** The proxy of guests that have no other way out, as they are told it: the same for all, since it stays in their memory. */
  readonly proxyUrl: string
  /** Why no guest can be on it (one sentence that says what to do); undefined if one can. */
  unavailable(): Promise<string | undefined>
  /** Why no guest on it can be held to a bandwidth; undefined if one can. */
  whyUnlimited(): Promise<string | undefined>
  /** A free address, nobody else's until the result is disposed of; by then a record has it. `isTaken` tells of those that records have. */
  reserveAddress(isTaken: (address: string) => boolean): Promise<{ readonly address: string } & Disposable>
  /** Whether a guest that had the address before may have it again, as far as this host is concerned. */
  isUsable(address: string): Promise<boolean>
  /** Name of the device of an instance. */
  deviceOf(id: string): string
  /** What the guest is told. */
  describe(mac: string, address: string): Promise<GuestNetwork>
  /** Makes the device, its limits, and what leads to it. If it throws, nothing of that is there. */
  attach(attachment: Attachment): Promise<void>
  /** Takes away all of what `attach` made; also what an earlier server has made. */
  detach(id: string): Promise<void>
  /** TCP connections that others have made to guests. Fails where the kernel does not show them. */
  flows(): Promise<readonly GuestFlow[]>
  /** At start: `running` is what is there and stays; so do the devices of the instances that are `spared`. What else this data directory has on the host is taken away. */
  recover(running: readonly Attachment[], spared?: ReadonlySet<string>): Promise<void>
  /** The rules are as they should be, or the log says why not. */
  settled(): Promise<void>
}

const forwarding = '/proc/sys/net/ipv4/ip_forward'

/** `root` is the data directory: it names what is of this server. Disposing leaves devices and rules as long as there is a guest that has them. */
export function createHostNetwork(root: string, settings: HostNetworkSettings, log: Logger): HostNetwork {
  const { subnet } = settings
  const cidr = `${addressOf(subnet.first)}/${subnet.prefixBits}`
  const names = networkNames(root)
  const attached = new Map<string, { readonly attachment: Attachment; readonly held: AsyncDisposable }>()
  const reserved = new Set<string>()
  const egress = createEgress({ subnet, port: settings.egressPort, dnsServer: settings.dnsServer }, log)
  /** By id, from before a device is there until it is gone for sure: a guest that can't be ended has no other way out either. */
  const mediated = new Map<string, Mediated>()
  /** By id, from before the guest runs until its device is gone for sure: what each may send as. */
  const sources = new Map<string, Source>()
  /** The same as it was written last. */
  let written: ReadonlyMap<string, Source> = new Map()
  /** Rules of guests that are there though their records can't be read: nobody knows whether they may do without. */
  let kept: readonly string[] = []
  /** Guests whose devices could not be removed: it is tried again with the next guest's, and at the end. */
  const left = new Set<string>()
  /** Guests that are gone, or on their way, and whose rules may still be in force. */
  const outdated = new Set<string>()
  let retry: Promise<void> | undefined
  let prepared: Promise<void> | undefined
  let isProven = false
  /** Our chains are there, and the host's lead into them. */
  let isInForce = false
  let lastChange: Promise<void> = Promise.resolve()
  let nextWrite: Promise<void> | undefined

  /** One after the other: rules are read before they are changed. */
  const inTurn = (act: () => Promise<void>): Promise<void> => {
    const turn = lastChange.then(act, act)
    lastChange = turn.catch(() => undefined) // told to who waits for it
    return turn
  }

  /** Brings the rules to what is attached at the time they are written: whoever comes while they are being written shares the next time. */
  const writeRules = (): Promise<void> => {
    nextWrite ??= inTurn(async () => {
      nextWrite = undefined
      const saved = isInForce ? undefined : await savedRules()
      const present = saved === undefined ? undefined : presentJumps(saved, names)
      const forwarded = [...attached.values()].flatMap(({ attachment: { address, ports } }) =>
        address === null ? [] : [{ address, ports }],
      )
      const missing = (jump: { readonly chain: string; readonly target: string }): boolean =>
        present !== undefined && !present.some(({ chain, target }) => chain === jump.chain && target === jump.target)
      const writing = new Map(sources)
      const rules = {
        subnet: cidr,
        gateway: subnet.gateway,
        proxyPort: settings.egressPort,
        forwarded,
        mediated: [...mediated.values()],
        sources: [...writing.values()],
        kept,
      }
      await applyRules(rulesText(names, rules, missing))
      written = writing
      isInForce = true
    })
    return nextWrite
  }

  /** A device that could not be removed may still have a guest, whose rules stay with it. */
  const isNeeded = (): boolean => attached.size > 0 || left.size > 0 || mediated.size > 0 || kept.length > 0

  const removeRules = (): Promise<void> =>
    inTurn(async () => {
      if (isNeeded()) return
      const saved = await savedRules()
      isInForce = false
      if (hasRules(saved, names)) await applyRules(removalText(names, saved))
    })

  const prepare = async (): Promise<void> => {
    const reason = await whyNot(subnet, cidr)
    if (reason !== undefined) throw new HypemanError('host_unavailable', `no guest can be on the host's network: ${reason}`)
    if ((await readFile(forwarding, 'latin1')).trim() !== '0') return
    await writeFile(forwarding, '1')
    log.warn('net.ipv4.ip_forward was off and is on now, for guests on tap devices; see docs/networks.md')
  }

  const bringUpToDate = async (id: string): Promise<void> => {
    await writeRules()
    outdated.delete(id)
  }

  /** Nothing is forgotten before it is done: what fails is tried again with the next guest that goes. */
  const remove = async (id: string): Promise<void> => {
    const known = attached.get(id)
    attached.delete(id)
    left.add(id)
    const restrictions = restrictionsOf(kept.join('\n'), names, names.tap(id))
    const isRestricted = mediated.has(id) || restrictions.length > 0
    if (isRestricted || (known !== undefined && known.attachment.ports.length > 0)) outdated.add(id)
    egress.dismiss(id)
    {
      await using undo = new AsyncDisposableStack()
      if (known !== undefined) undo.use(known.held)
      undo.defer(() => removeShaper(names.shaper(id)))
      // All of its rules at once. What leads to it goes before its device, unless there is what it may not do: that goes after it.
      const update = (): Promise<void> => (outdated.has(id) ? bringUpToDate(id) : Promise.resolve())
      if (isRestricted) undo.defer(update)
      undo.defer(async () => {
        await removeTap(names.tap(id))
        mediated.delete(id)
        kept = kept.filter((rule) => !restrictions.includes(rule))
        // Where it may send from is told by a rule that no other device meets: it goes with the next change.
        sources.delete(id)
      })
      if (!isRestricted) undo.defer(update)
    }
    left.delete(id)
  }

  /** Where it may send from, as the rules say. */
  const hold = ({ id, address }: Attachment): void => {
    if (address !== null) sources.set(id, { device: names.tap(id), address })
  }

  /** Lets the guest ask the proxy, and says what rules are to keep it from; these are not in force yet. */
  const mediate = async ({ id, address, egress: mode }: Attachment): Promise<void> => {
    if (mode === null) return
    mediated.set(id, { device: names.tap(id), address, mode })
    if (address !== null) await egress.admit(id, address)
  }

  /** Of devices that are there and of no guest that is known. */
  const keepRestrictions = async (): Promise<void> => {
    const known = new Set([...attached.keys()].map((id) => names.tap(id)))
    const unknown = (await listDevices()).filter((name) => name.startsWith(names.tapPrefix) && !known.has(name))
    if (unknown.length === 0) return
    const saved = await savedRules()
    kept = unknown.flatMap((device) => restrictionsOf(saved, names, device))
  }

  const removeLeft = async (): Promise<void> => {
    for (const id of left)
      await remove(id).catch((error: unknown) =>
        log.warn({ instance: id, error: messageOf(error) }, 'a network device that no machine has could not be removed'),
      )
  }

  const detach = async (id: string): Promise<void> => {
    await remove(id)
    if (left.size === 0) return
    retry ??= removeLeft().finally(() => (retry = undefined))
    await retry
  }

  return {
    subnet: cidr,
    gateway: subnet.gateway,
    proxyUrl: egress.url,
    async unavailable() {
      if (isProven) return undefined
      const reason = await whyNot(subnet, cidr)
      isProven = reason === undefined
      return reason
    },
    whyUnlimited: limitProbe(names.shaper('limit'), names.shaper('probe')),
    async reserveAddress(isTaken) {
      const routes = await hostRoutes()
      const routed = new Set(routes.filter(({ first, last }) => first === last).map(({ first }) => addressOf(first)))
      const address = freeAddress(subnet, (one) => reserved.has(one) || routed.has(one) || isTaken(one))
      if (address === undefined)
        throw new HypemanError(
          'insufficient_resources',
          `no address of ${cidr} is free; delete instances or set network.subnet_cidr to a larger network`,
        )
      reserved.add(address)
      return { address, [Symbol.dispose]: () => void reserved.delete(address) }
    },
    async isUsable(address) {
      if (!isGuestAddress(subnet, address)) return false
      const number = numberOf(address)
      return !(await hostRoutes()).some(
        ({ first, last, device }) => first === number && last === number && !device.startsWith(names.tapPrefix),
      )
    },
    deviceOf: (id) => names.tap(id),
    async describe(mac, address) {
      const [dns, mtu] = await Promise.all([settings.dnsServer === undefined ? resolversForGuests() : [settings.dnsServer], guestMtu()])
      return { mac, address: `${address}/${subnet.prefixBits}`, gateway: subnet.gateway, dns, mtu }
    },
    async attach(attachment) {
      const { id, address, ports } = attachment
      await retry
      left.delete(id)
      prepared ??= prepare()
      await prepared.catch((error: unknown) => {
        prepared = undefined
        throw error
      })
      await using undo = new AsyncDisposableStack()
      const held = undo.use(await holdPorts(ports))
      undo.defer(() => detach(id))
      await makeTap({
        name: names.tap(id),
        alias: `${names.owner} ${id}`,
        addresses: address === null ? null : { host: subnet.gateway, guest: address },
        fromLoopback: ports.some(({ hostAddress }) => hostAddress === '0.0.0.0' || hostAddress.startsWith('127.')),
      })
      await setLimits(names.tap(id), names.shaper(id), attachment)
      attached.set(id, { attachment, held })
      hold(attachment)
      await mediate(attachment)
      // Elsewhere the device itself sees to where it sends from, and rules are not worth the time of a start.
      const isOther = written.has(id) ? written.get(id)?.address !== address : address !== null && (await isLenient())
      const needsRules = ports.length > 0 || mediated.has(id) || outdated.size > 0 || isOther
      if (needsRules || !isInForce) await writeRules()
      undo.move()
    },
    detach,
    flows: guestFlows,
    async recover(running, spared = new Set()) {
      const staying = [...running.map(({ id }) => id), ...spared]
      const stays = new Set(staying.flatMap((id) => [names.tap(id), names.shaper(id)]))
      const stale = (await listDevices()).filter(
        (name) => (name.startsWith(names.tapPrefix) || name.startsWith(names.shaperPrefix)) && !stays.has(name),
      )
      for (const name of stale) {
        try {
          await (name.startsWith(names.tapPrefix) ? removeTap(name) : removeShaper(name))
        } catch (error) {
          log.warn({ device: name, error: messageOf(error) }, 'a network device of no instance could not be removed')
        }
      }
      if (stale.length > 0) log.info({ devices: stale }, 'network devices of no instance are removed')
      for (const attachment of running) {
        const held = await holdPorts(attachment.ports).catch((error: unknown) => {
          log.warn({ instance: attachment.id, error: messageOf(error) }, 'a published port may be given to another program, too')
          return new AsyncDisposableStack()
        })
        attached.set(attachment.id, { attachment, held })
        hold(attachment)
        await mediate(attachment).catch((error: unknown) =>
          log.error({ instance: attachment.id, error: messageOf(error) }, 'a guest whose only way out is the proxy has none'),
        )
      }
      await keepRestrictions().catch((error: unknown) =>
        log.error(
          { error: messageOf(error) },
          "the firewall's rules could not be read: guests without a readable record may go out directly",
        ),
      )
      // Who may not look at rules has made none.
      const hasGuests = isNeeded()
      const work = hasGuests ? writeRules() : process.getuid?.() === 0 ? removeRules() : Promise.resolve()
      work.catch((error: unknown) =>
        log[hasGuests || stale.length > 0 ? 'error' : 'debug'](
          { error: messageOf(error) },
          "the firewall's rules for guests could not be brought up to date",
        ),
      )
    },
    settled: () => lastChange,
    async [Symbol.asyncDispose]() {
      await lastChange
      await removeLeft()
      await egress[Symbol.asyncDispose]()
      for (const { held } of attached.values()) await held[Symbol.asyncDispose]()
      if (isNeeded() || !isInForce) return
      await removeRules().catch((error: unknown) =>
        log.warn({ error: messageOf(error) }, 'rules of the firewall that nobody needs could not be removed'),
      )
    },
  }
}

async function whyNot(subnet: Subnet, cidr: string): Promise<string | undefined> {
  const why = whyNotTap()
  if (why !== undefined) return why
  const other = (await hostRoutes()).find((route) => overlaps(subnet, route) && !isTapRoute(route))
  if (other !== undefined)
    return `the host has a network of its own on ${other.device} that has addresses of ${cidr}; set network.subnet_cidr to another network`
  try {
    await savedRules()
    return undefined
  } catch (error) {
    return `iptables can't be used (${messageOf(error)}); install it, and run as root or with CAP_NET_ADMIN`
  }
}

function isTapRoute({ device }: { readonly device: string }): boolean {
  return device.startsWith(anyTap.slice(0, -1))
}
