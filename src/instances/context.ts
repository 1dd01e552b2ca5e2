// What the flows of instances work with, made once by the composition root, and how a flow takes its instance.

import type { Logger } from 'pino'
import type { ConnectAgent } from '../agent/contract.ts'
import { HypemanError } from '../api/errors.ts'
import type { CompressionSetting } from '../files/compression.ts'
import type { Digests } from '../files/digests.ts'
import type { DataLayout } from '../files/layout.ts'
import type { Hypervisor, HypervisorName } from '../hypervisors/driver.ts'
import type { ImageService } from '../images/types.ts'
import type { Kernel } from '../kernels/index.ts'
import type { HostConnection, HostNetwork } from '../networks/index.ts'
import type { Capacity } from '../platform/capacity.ts'
import { openFlow, type FaultPlan, type FlowSubject, type OpenFlow } from '../platform/flow.ts'
import type { KeyedLock } from '../platform/keyed-lock.ts'
import type { Sealer } from '../platform/sealing.ts'
import type { Slots } from '../platform/slots.ts'
import type { VolumeSource } from '../volumes/types.ts'
import type { InstanceEntry } from './entry.ts'
import type { EventLog } from './events.ts'
import type { RateSupply } from './shares.ts'
import type { Spares } from './spares.ts'
import type { InstanceStore } from './store.ts'
import type { Templates } from './templates.ts'

/** Bounds of every wait, in milliseconds unless said otherwise. */
export interface InstanceSettings {
  readonly defaultHypervisor: HypervisorName
  /** Until a cold-booted guest's agent has answered. */
  readonly bootTimeoutMs: number
  /** Until a restored or forked guest's agent has answered. */
  readonly restoreTimeoutMs: number
  /** Given to a workload to end by itself. */
  readonly stopGraceMs: number
  /** An operation waits at most this long for another on the same instance. */
  readonly lockWaitMs: number
  /** Of which kind the networks of new instances are; `auto`: what the hypervisor usually has, or what a limit of bandwidth or the proxy as the only way out needs. */
  readonly networkMode: 'auto' | 'user' | 'tap'
  /** Of memory of which neither a request nor the instance's policy says anything; undefined: it is not compressed. */
  readonly compression: CompressionSetting | undefined
  /** What is shared among new instances that ask for no limit (shares.ts); undefined: nobody has said how much there is, and they have none. */
  readonly diskThroughput: RateSupply | undefined
  readonly bandwidth: RateSupply | undefined
  readonly maxVcpus: number
  readonly maxMemoryBytes: number
  readonly maxOverlayBytes: number
}

export interface InstanceContext {
  readonly layout: DataLayout
  readonly log: Logger
  readonly settings: InstanceSettings
  readonly drivers: ReadonlyMap<HypervisorName, Hypervisor>
  readonly images: ImageService
  readonly volumes: VolumeSource
  /** Of the host: whoever lets an instance hold more takes it there first (capacity.ts). */
  readonly capacity: Pick<Capacity, 'reserve' | 'supplies'>
  readonly connectAgent: ConnectAgent
  /** TCP connections of the host with one of the ports at either end. */
  readonly hostConnections: (ports: ReadonlySet<number>) => Promise<readonly HostConnection[]>
  /** For guests on tap devices. */
  readonly hostNetwork: HostNetwork
  /** For new instances. */
  readonly kernel: Kernel
  readonly store: InstanceStore
  readonly locks: KeyedLock
  readonly digests: Digests
  /** For secrets in records. */
  readonly sealer: Sealer
  /** For whatever compresses memory. */
  readonly compressions: Slots
  /** Absent: every machine is booted. */
  readonly templates: Templates | undefined
  /** Absent: every fork is loaded when it is asked for. */
  readonly spares: Spares | undefined
  readonly events: EventLog
  readonly faults: FaultPlan | undefined
  /** Aborts when the server stops. */
  readonly stopping: AbortSignal
}

/** A flow on one instance: its steps go to the instance's events. `about` names what else it is about. */
export function flowOn(
  context: InstanceContext,
  instanceId: string,
  flow: string,
  { signal = context.stopping, about = {} }: { readonly signal?: AbortSignal; readonly about?: FlowSubject } = {},
): OpenFlow {
  const onStep: OpenFlow['onStep'] = (event) => context.events.step(instanceId, event)
  return openFlow({ flow, signal, faults: context.faults, onStep }, { instanceId, ...about })
}

/** Takes the instance's lock for a flow that changes it; `not_found` when it was deleted while the flow waited for its turn. */
export async function lockInstance(context: InstanceContext, entry: InstanceEntry): Promise<Disposable> {
  using held = new DisposableStack()
  held.use(await holdInstance(context, entry))
  if (context.store.byId(entry.id) !== entry) throw new HypemanError('not_found', `the instance ${entry.record.name} is gone`)
  return held.move()
}

/** The lock alone: for an instance in the making, and for those who look themselves whether it is still there. */
export function holdInstance(
  context: InstanceContext,
  entry: { readonly id: string; readonly record: { readonly name: string } },
  waitMs: number = context.settings.lockWaitMs,
  signal?: AbortSignal,
): Promise<Disposable> {
  return context.locks.acquire(entry.id, { waitMs, what: `instance ${entry.record.name}`, ...(signal === undefined ? {} : { signal }) })
}
