// Flow: standby. Running → Paused → Standby: memory and device state go to the directory, then the process ends.

import { step } from '../platform/flow.ts'
import { compressIfDue } from './compress-standby.ts'
import { flowOn, lockInstance, type InstanceContext } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import { detach, memoryOf, specOf } from './machine.ts'
import { releaseNetwork } from './network.ts'
import { liveMachine, permit } from './permission.ts'
import { proveAgent } from './probe.ts'
import { withoutPlan } from './restart-policy.ts'
import { sealMemory } from './saved-memory.ts'
import { stillnessOf } from './stillness.ts'
import { standbyCompressionOf, type StandbyRequest } from './snapshot-policy.ts'

export async function standbyInstance(context: InstanceContext, entry: InstanceEntry, compression: StandbyRequest = {}): Promise<void> {
  {
    using _lock = await lockInstance(context, entry)
    await suspendInstance(context, entry, { compression })
  }
  compressIfDue(context, entry, Date.now())
}

interface SuspendOptions {
  /** What its events say of the state that is reached. */
  readonly message?: string
  /** Asked as the last thing before the guest stands still; by default nothing calls it off. */
  readonly proceed?: () => Promise<boolean>
  /** How its memory is compressed afterwards, where that is not what its policy says. */
  readonly compression?: StandbyRequest
}

/** The flow itself; the caller holds the lock. False if it was called off. On failure the instance is running, or paused if even that fails: then it can be tried again. */
export async function suspendInstance(
  context: InstanceContext,
  entry: InstanceEntry,
  { message = 'memory is on disk', proceed, compression = {} }: SuspendOptions = {},
): Promise<boolean> {
  entry.suspending = proceed === undefined
  using _done = { [Symbol.dispose]: () => void (entry.suspending = false) }
  const state = await permit(entry, 'standby')
  const { record } = entry
  const machine = liveMachine(entry)
  const memory = memoryOf(context, record)
  using flow = flowOn(context, entry.id, 'instance.standby')
  const directory = context.layout.instance(entry.id)
  if (state === 'Running') await step(flow, 'prove-agent', () => proveAgent(context, entry, flow.signal))
  if (proceed !== undefined && !(await proceed())) return false
  entry.suspending = true

  // What ends with the guest as it was has it run before its programs go on.
  await using still = stillnessOf(context, entry, flow, state)
  await still.freeze()
  await using undo = new AsyncDisposableStack()
  undo.defer(() => machine.resume())
  await step(flow, 'pause', () => machine.pause())
  undo.defer(async () => {
    try {
      await memory.discardMemory(directory)
    } finally {
      entry.holdsMemory = await memory.holdsMemory(directory)
    }
  })
  await step(flow, 'save', () => memory.suspend(machine, specOf(context, record), flow.signal))
  const savedMemory = await step(flow, 'seal', () => sealMemory(context, record, directory))
  // It is true, and must be said before the process ends: nobody may see an instance that is neither running nor in standby.
  entry.holdsMemory = true
  await step(flow, 'end', async () => {
    await machine.kill()
    // From here on the image is all that there is of the guest.
    undo.move()
    await still.keep()
    detach(entry)
    await releaseNetwork(context, record)
  })
  const restarts = withoutPlan(record.restarts)
  const standbyCompression = standbyCompressionOf(record.snapshotPolicy, context.settings.compression, compression, Date.now())
  const change = { process: null, stoppedAt: new Date().toISOString(), runningSince: null, restarts, savedMemory, standbyCompression }
  await context.store.update(entry, change)
  context.events.state(entry.id, 'Standby', message)
  return true
}
