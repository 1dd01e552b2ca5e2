// Flow: an instance is given another size. A stopped one any, for its next boot (its disk only grows). One that runs more, where its hypervisor can: first the machine has it,
// then its guest takes it into use.

import { HypemanError } from '../api/errors.ts'
import { formatSize } from '../api/units.ts'
import type { Hypervisor, Machine, Resize } from '../hypervisors/driver.ts'
import { messageOf, step, type OpenFlow } from '../platform/flow.ts'
import { withinLimit } from './agent-limit.ts'
import { checkSizes, reserveFor } from './capacity.ts'
import { flowOn, type InstanceContext } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import { agentOf, driverOf, mibOf } from './machine.ts'
import { liveMachine, permit } from './permission.ts'
import type { InstanceRecord } from './record.ts'

export type InstanceSize = Pick<InstanceRecord, 'vcpus' | 'memoryBytes' | 'overlayBytes'>

const MIB = 1024 ** 2
/** Until a guest has taken into use what its machine was given, in milliseconds. */
const GUEST_LIMIT_MS = 30_000
/** What its answer may take beyond that, in milliseconds. */
const ANSWER_MARGIN_MS = 5_000

/** Gives the instance that size; what is undefined stays. The caller holds the lock. Asked again, a guest is told again what it has. */
export async function resizeInstance(context: InstanceContext, entry: InstanceEntry, asked: Partial<InstanceSize>): Promise<void> {
  const state = await permit(entry, 'resize')
  const { record } = entry
  const { vcpus, memoryBytes, overlayBytes } = record
  const size: InstanceSize = { vcpus, memoryBytes, overlayBytes, ...asked }
  checkSizes(context, size)
  checkDisk(record, size)
  const driver = driverOf(context, record)
  if (state === 'Running') checkGrowth(driver, record, size)
  using _share = reserveFor(context, { ...record, ...size }, state === 'Running')
  using flow = flowOn(context, entry.id, 'instance.resize')
  if (state === 'Stopped') await resizeStopped(context, entry, flow, driver, size)
  else await growRunning(context, entry, flow, driver, size)
}

async function resizeStopped(
  context: InstanceContext,
  entry: InstanceEntry,
  flow: OpenFlow,
  driver: Hypervisor,
  size: InstanceSize,
): Promise<void> {
  const { vcpus, memoryBytes, overlayBytes } = entry.record
  await using undo = new AsyncDisposableStack()
  if (size.overlayBytes > overlayBytes)
    await step(flow, 'disk', async () => {
      undo.use(await driver.growDisk(context.layout.instance(entry.id), size.overlayBytes))
    })
  // A record may not tell of more than there is, so that it goes back first.
  undo.defer(() => context.store.update(entry, { vcpus, memoryBytes, overlayBytes }))
  await step(flow, 'record', () => context.store.update(entry, { ...size }))
  undo.move()
}

async function growRunning(
  context: InstanceContext,
  entry: InstanceEntry,
  flow: OpenFlow,
  { resize = {} }: Hypervisor,
  size: InstanceSize,
): Promise<void> {
  const { record } = entry
  const machine = liveMachine(entry)
  if (size.overlayBytes > record.overlayBytes) {
    // A disk that is longer than its record says does no harm: it is made so for good when it is asked for again.
    await step(flow, 'disk', async () => resize.disk?.(machine, size.overlayBytes, flow.signal))
    await step(flow, 'record-disk', () => context.store.update(entry, { overlayBytes: size.overlayBytes }))
  }
  if ((size.memoryBytes > record.memoryBytes || size.vcpus > record.vcpus) && resize.machine !== undefined)
    await growMachine(context, entry, flow, { machine, resize: resize.machine, size })
  // Told last, so that it finds all of it.
  await step(flow, 'guest', () => tellGuest(context, entry, flow.signal))
}

interface Growing {
  readonly machine: Machine
  readonly resize: NonNullable<Resize['machine']>
  readonly size: InstanceSize
}

/** What the VMM has in the end is what the record says. That is written first: memory that was saved of a machine which is larger than its record says could not be restored. */
async function growMachine(
  context: InstanceContext,
  entry: InstanceEntry,
  flow: OpenFlow,
  { machine, resize, size: { vcpus, memoryBytes } }: Growing,
): Promise<void> {
  const before = entry.record
  const hotplugBytes = Math.max(0, before.hotplugBytes - (memoryBytes - before.memoryBytes))
  try {
    await step(flow, 'record', () => context.store.update(entry, { vcpus, memoryBytes, hotplugBytes }))
    await step(flow, 'machine', () => resize.grow(machine, { vcpus, memoryMib: mibOf(memoryBytes) }, flow.signal))
  } catch (error) {
    await adjustRecord(context, entry, { machine, resize, before }).catch((cause: unknown) =>
      // One that has ended begins with what the record says; of one that hangs, the next start of the server asks again.
      context.log.warn({ instance: entry.id, error: messageOf(cause) }, 'the VMM does not say how large its machine is'),
    )
    throw error
  }
}

/** Has the record say what the VMM has: of one that refused, or of a server that ended in between. */
export async function adjustRecord(
  context: InstanceContext,
  entry: InstanceEntry,
  { machine, resize, before }: Omit<Growing, 'size'> & { readonly before?: InstanceRecord },
): Promise<void> {
  const { record } = entry
  const has = await resize.size(machine, context.stopping)
  if (has.vcpus === record.vcpus && has.memoryMib === mibOf(record.memoryBytes)) return
  const known = before !== undefined && has.memoryMib === mibOf(before.memoryBytes)
  const memoryBytes = known ? before.memoryBytes : has.memoryMib * MIB
  const hotplugBytes = known ? before.hotplugBytes : Math.max(0, record.hotplugBytes + record.memoryBytes - memoryBytes)
  await context.store.update(entry, { vcpus: has.vcpus, memoryBytes, hotplugBytes })
}

async function tellGuest(context: InstanceContext, entry: InstanceEntry, signal: AbortSignal): Promise<void> {
  const { vcpus, memoryBytes, overlayBytes, name } = entry.record
  try {
    await withinLimit(entry, GUEST_LIMIT_MS + ANSWER_MARGIN_MS, signal, async (limited) =>
      (await agentOf(entry, context, limited)).grow({ vcpus, memoryBytes, diskBytes: overlayBytes }, GUEST_LIMIT_MS, limited),
    )
  } catch (error) {
    signal.throwIfAborted()
    if (!(error instanceof HypemanError)) throw error
    throw new HypemanError(
      error.code,
      `${name} has been given it, and its guest has not taken all of it into use: ${error.message}; ask for the same size again, or stop and start it`,
      { cause: error },
    )
  }
}

/** Nobody can tell whether what is at the end of a disk may go, and what lies behind the first file system is in its way. */
function checkDisk({ name, overlayBytes, volumes }: InstanceRecord, wanted: InstanceSize): void {
  if (wanted.overlayBytes < overlayBytes)
    throw new HypemanError('invalid_overlay_size', `overlay_size: the disk of ${name} has ${formatSize(overlayBytes)} and can only grow`)
  if (wanted.overlayBytes > overlayBytes && volumes.some(({ overlay }) => overlay !== null))
    throw new HypemanError(
      'not_supported',
      `overlay_size: behind the file system of ${name} are the layers over its volumes; detach the volumes that have one first`,
    )
}

/** Refuses what a machine that runs can't be given. */
function checkGrowth({ name: hypervisor, resize = {} }: Hypervisor, record: InstanceRecord, wanted: InstanceSize): void {
  const { name } = record
  const orStop = `stop it first: hypeman stop ${name}`
  if (record.skipGuestAgent)
    throw new HypemanError(
      'invalid_state',
      `${name} was created with skip_guest_agent, so nobody can tell its guest that it has more; ${orStop}`,
    )
  if (wanted.overlayBytes > record.overlayBytes && resize.disk === undefined)
    throw new HypemanError('not_supported', `overlay_size: ${hypervisor} can't make a disk longer while it is in use; ${orStop}`)
  if (wanted.vcpus < record.vcpus || wanted.memoryBytes < record.memoryBytes)
    throw new HypemanError('invalid_state', `a guest that runs can't be given less; ${orStop}`)
  const { vcpus, memoryBytes } = record
  if (wanted.vcpus === vcpus && wanted.memoryBytes === memoryBytes) return
  if (resize.machine === undefined)
    throw new HypemanError('not_supported', `${hypervisor} can't give a machine that runs more processors or memory; ${orStop}`)
  const more = wanted.memoryBytes - memoryBytes
  const stepBytes = resize.machine.memoryStepMib * MIB
  if (more > record.hotplugBytes)
    throw new HypemanError(
      'invalid_size',
      `size: ${name} was started with room for ${formatSize(memoryBytes + record.hotplugBytes)} (its size and its hotplug_size); ${orStop}`,
    )
  if (more % stepBytes !== 0)
    throw new HypemanError(
      'invalid_size',
      `size: a machine that runs is given memory in pieces of ${formatSize(stepBytes)}: ${formatSize(memoryBytes + Math.ceil(more / stepBytes) * stepBytes)} would do, or ${orStop}`,
    )
}
