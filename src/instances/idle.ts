// Whether anybody uses an instance: looks at the connections to its published ports and at who uses it by way of the API, and puts one on standby that nobody does.
// The rules are in auto-standby.ts; who looks, and when, is jobs/auto-standby.ts.

import { BlockList, isIPv6 } from 'node:net'
import { HypemanError } from '../api/errors.ts'
import type { AutoStandbyStatus } from '../api/schemas/auto-standby.ts'
import { sourceOf, type PublishedPort } from '../networks/index.ts'
import { messageOf } from '../platform/flow.ts'
import { afterLook, statusOf, verdictOf, type AutoStandby, type Circumstances, type Look } from './auto-standby.ts'
import { lockInstance, type InstanceContext } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import type { DerivedState } from './state.ts'
import { suspendInstance } from './standby.ts'

/** An attempt that failed is made again after this time, in milliseconds: what keeps it from working, such as a full disk, takes a while to go. */
const RETRY_MS = 60_000

/** Counts as a use of the instance until it is disposed of. */
export function occupy(entry: InstanceEntry): Disposable {
  const { idle } = entry
  idle.users += 1
  let over = false
  return {
    [Symbol.dispose]: () => {
      if (over) return
      over = true
      idle.users -= 1
      idle.lastUsedMs = Date.now()
    },
  }
}

/** Whether there is anything to look for: it runs, and its policy is enabled. */
export function isWatched({ record, machine }: InstanceEntry): boolean {
  return machine !== undefined && record.runningSince !== null && record.autoStandby?.enabled === true
}

/** Whether it is due by the last look. Its state is asked when it is put on standby. */
export function isStandbyDue(context: InstanceContext, entry: InstanceEntry, nowMs: number): boolean {
  return isWatched(entry) && verdictOf(circumstancesOf(context, entry, { state: 'Running' }), nowMs).status === 'ready_for_standby'
}

/** Looks at the connections of all of these instances at once. Where the kernel's list can't be read, that is what is known of each. */
export async function lookAround(context: InstanceContext, entries: readonly InstanceEntry[]): Promise<void> {
  const [forwarded, others] = [entries.filter(isForwarded), entries.filter((entry) => !isForwarded(entry))]
  await Promise.all([
    lookAmong(context, others, () => usesBySockets(context, others)),
    lookAmong(context, forwarded, () => usesByFlows(context)),
  ])
}

/** Its connections are no socket's of this host: they are forwarded. */
function isForwarded({ record }: InstanceEntry): boolean {
  return record.network?.kind === 'tap'
}

/** Somebody's connection into an instance. */
interface Use {
  readonly guestPort: number
  readonly source: string
  /** The other end's. */
  readonly sourcePort: number
  /** How long ago it ended, in milliseconds; null while it is open. */
  readonly endedMs: number | null
}

type UsesOf = (entry: InstanceEntry) => readonly Use[]

async function lookAmong(context: InstanceContext, entries: readonly InstanceEntry[], find: () => Promise<UsesOf>): Promise<void> {
  if (entries.length === 0) return
  let usesOf: UsesOf
  try {
    usesOf = await find()
  } catch (error) {
    if (!entries.every(({ idle }) => idle.isBlind))
      context.log.warn({ error: messageOf(error) }, "the host's connections can't be read; nothing goes to standby by itself meanwhile")
    for (const { idle } of entries) idle.isBlind = true
    return
  }
  const nowMs = Date.now()
  for (const entry of entries) {
    entry.idle.isBlind = false
    note(entry, lookOf(entry, usesOf(entry), nowMs), nowMs)
  }
}

async function usesBySockets(context: InstanceContext, entries: readonly InstanceEntry[]): Promise<UsesOf> {
  const connections = await context.hostConnections(new Set(entries.flatMap((entry) => tcpPorts(entry).map(({ hostPort }) => hostPort))))
  const byPort = Map.groupBy(
    connections.flatMap((connection) => [connection.local.port, connection.remote.port].map((port) => ({ port, connection }))),
    ({ port }) => port,
  )
  return (entry) => {
    const relevant = tcpPorts(entry).flatMap(({ hostPort }) => byPort.get(hostPort) ?? [])
    return [...new Set(relevant.map(({ connection }) => connection))].flatMap((connection) => {
      const leading = tcpPorts(entry).flatMap((port) => {
        const source = sourceOf(connection, port)
        return source === undefined
          ? []
          : [{ guestPort: port.guestPort, source: source.address, sourcePort: source.port, endedMs: connection.endedMs }]
      })
      return leading.slice(0, 1)
    })
  }
}

async function usesByFlows({ hostNetwork }: InstanceContext): Promise<UsesOf> {
  const byGuest = Map.groupBy(await hostNetwork.flows(), ({ guest }) => guest)
  return ({ record: { network } }) => (network?.kind === 'tap' && network.address !== null ? (byGuest.get(network.address) ?? []) : [])
}

function tcpPorts({ record }: InstanceEntry): readonly PublishedPort[] {
  return (record.network?.ports ?? []).filter(({ protocol }) => protocol === 'tcp')
}

function note(entry: InstanceEntry, look: Look, nowMs: number): void {
  const { runningSince } = entry.record
  if (runningSince !== null) entry.idle.seen = afterLook(entry.idle.seen, runningSince, look, nowMs)
}

/** What of these counts; who uses the instance by way of the API does, too. */
function lookOf(entry: InstanceEntry, uses: readonly Use[], nowMs: number): Look {
  const { autoStandby: policy } = entry.record
  let open = entry.idle.users
  let lastEndedMs = entry.idle.lastUsedMs
  for (const { guestPort, source, sourcePort, endedMs } of uses) {
    if (entry.idle.ownProbes.isOwn(sourcePort, endedMs, nowMs)) continue
    if (policy !== null && (policy.ignoredPorts.includes(guestPort) || isIgnored(policy, source))) continue
    if (endedMs === null) open += 1
    else lastEndedMs = Math.max(lastEndedMs ?? 0, nowMs - endedMs)
  }
  return { connections: open, lastEndedMs }
}

const ignoredNetworks = new WeakMap<AutoStandby, BlockList>()

function isIgnored(policy: AutoStandby, source: string): boolean {
  let networks = ignoredNetworks.get(policy)
  if (networks === undefined) {
    networks = new BlockList()
    for (const text of policy.ignoredSources) {
      const [address = '', bits] = text.split('/')
      networks.addSubnet(address, Number(bits), isIPv6(address) ? 'ipv6' : 'ipv4')
    }
    ignoredNetworks.set(policy, networks)
  }
  return networks.check(source, isIPv6(source) ? 'ipv6' : 'ipv4')
}

function circumstancesOf(context: InstanceContext, entry: InstanceEntry, { state }: Pick<DerivedState, 'state'>): Circumstances {
  const { record, idle } = entry
  return {
    supported: context.drivers.get(record.hypervisor)?.memory !== undefined,
    policy: record.autoStandby,
    state,
    runningSince: record.runningSince,
    network: record.network?.kind ?? null,
    idleness: idle.seen,
    users: idle.users,
    isBlind: idle.isBlind,
    holdUntilMs: idle.holdUntilMs,
    retryAtMs: idle.retryAtMs,
    isRequested: idle.isRequested,
  }
}

/** What is known of the instance now: it is looked at for this. */
export async function autoStandbyStatusOf(context: InstanceContext, entry: InstanceEntry): Promise<AutoStandbyStatus> {
  if (isWatched(entry)) await lookAround(context, [entry])
  return statusOf(circumstancesOf(context, entry, await entry.observe()), Date.now())
}

/** Keeps it from going to standby for as long as its idle timeout; `instance_in_standby` if it is there, or on its way. */
export async function holdAwake(context: InstanceContext, entry: InstanceEntry): Promise<AutoStandbyStatus> {
  const { state } = await entry.observePatiently()
  // What it was on its way to when it was asked may be over by now.
  if (entry.suspending || state === 'Standby' || (entry.machine === undefined && entry.holdsMemory))
    throw new HypemanError(
      'instance_in_standby',
      `the instance ${entry.record.name} is in standby, or on its way; hypeman restore ${entry.record.name}`,
    )
  const { autoStandby: policy } = entry.record
  if (policy?.enabled === true && policy.idleTimeoutMs !== null) entry.idle.holdUntilMs = Date.now() + policy.idleTimeoutMs
  return autoStandbyStatusOf(context, entry)
}

/** Puts an instance on standby that is idle long enough, if it still is when its turn has come, and when its guest is about to stand still. False if it is not. */
export async function standbyIdle(context: InstanceContext, entry: InstanceEntry): Promise<boolean> {
  using _lock = await lockInstance(context, entry)
  const { idle } = entry
  const isDue = async (): Promise<boolean> => {
    if (!isWatched(entry)) return false
    await lookAround(context, [entry])
    const state = await entry.observe()
    return verdictOf(circumstancesOf(context, entry, state), Date.now()).status === 'standby_requested'
  }
  // Decided and said in one turn: a hold comes before that, and is seen, or after it, and is refused.
  const proceed = async (): Promise<boolean> => {
    if (!(await isDue())) return false
    entry.suspending = verdictOf(circumstancesOf(context, entry, { state: 'Running' }), Date.now()).status === 'standby_requested'
    return entry.suspending
  }
  idle.isRequested = true
  try {
    if (!(await isDue())) return false
    const since = new Date(idle.seen?.idleSinceMs ?? Date.now()).toISOString()
    return await suspendInstance(context, entry, { message: `memory is on disk; nobody used it since ${since}`, proceed })
  } catch (error) {
    idle.retryAtMs = Date.now() + RETRY_MS
    throw error
  } finally {
    idle.isRequested = false
  }
}
