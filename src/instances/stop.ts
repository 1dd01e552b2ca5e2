// Flow: stop. Asks the workload, then presses the power button, then kills; from Standby it discards the memory image.

import { messageOf, step, type FlowContext } from '../platform/flow.ts'
import { isAlive } from '../platform/process.ts'
import { stopCompressing } from './compress-standby.ts'
import { flowOn, lockInstance, type InstanceContext } from './context.ts'
import { holdsMemoryIn, removeCompressed } from './decompress-standby.ts'
import type { InstanceEntry } from './entry.ts'
import { exitOf } from './exit.ts'
import { agentOf, driverOf, endMachine, memoryOf, waitFor } from './machine.ts'
import { permit } from './permission.ts'
import type { InstanceRecord } from './record.ts'
import { afterStop } from './restart-policy.ts'

/** After the grace: until the guest has synced and powered off, and after the power button, in milliseconds. */
const POWER_OFF_MS = 3_000

export async function stopInstance(context: InstanceContext, entry: InstanceEntry): Promise<void> {
  using _lock = await lockInstance(context, entry)
  if (await callOffRestart(context, entry)) return
  const state = await permit(entry, 'stop')
  using flow = flowOn(context, entry.id, 'instance.stop')
  const restarts = afterStop(entry.record.restarts)
  if (state === 'Standby') await step(flow, 'discard-memory', () => discardMemory(context, entry, { restarts }))
  else await endRunning(context, entry, flow, { restarts })
  context.events.state(entry.id, 'Stopped', 'stopped on request')
}

/** Ends a machine as gently as it lets us. Without another `exit` in the change the console tells how the program ended. */
export async function endRunning(
  context: InstanceContext,
  entry: InstanceEntry,
  flow: FlowContext,
  change: Partial<InstanceRecord>,
): Promise<void> {
  await step(flow, 'ask', () => askToStop(context, entry, context.settings.stopGraceMs))
  await step(flow, 'end', async () => {
    const exit = await exitOf(context.layout.instance(entry.id), entry.record)
    await endMachine(context, entry, { exit, balloon: null, ...change })
  })
}

/** An instance that has ended and is about to be started again by itself is stopped by leaving that; false if there is nothing to leave. */
async function callOffRestart(context: InstanceContext, entry: InstanceEntry): Promise<boolean> {
  const { record } = entry
  if (record.restartPolicy === null || entry.machine !== undefined || entry.holdsMemory) return false
  // With a process on record its end was just seen, and is not on record yet; one that lives could not be taken over.
  if (record.process === null ? record.restarts.nextAttemptAt === null : isAlive(record.process)) return false
  const exit = record.process === null ? record.exit : await exitOf(context.layout.instance(entry.id), record)
  await endMachine(context, entry, { exit, restarts: afterStop(record.restarts) })
  context.events.state(entry.id, 'Stopped', 'stopped on request, before it was started again')
  return true
}

/** What is left of a standby instance starts cold from its disks. */
async function discardMemory(context: InstanceContext, entry: InstanceEntry, change: Partial<InstanceRecord>): Promise<void> {
  const [driver, directory] = [driverOf(context, entry.record), context.layout.instance(entry.id)]
  await stopCompressing(entry)
  try {
    await memoryOf(context, entry.record).discardMemory(directory)
  } finally {
    entry.holdsMemory = await holdsMemoryIn(driver, entry.record, directory)
  }
  const nothing = { identityDue: null, programStartedAt: null, agentReadyAt: null, standbyCompression: null, balloon: null }
  await context.store.update(entry, { ...nothing, ...change })
  await removeCompressed(context, entry)
}

/** Asks the guest to end and waits for it, firmer with each step. What it refuses is left to the kill that follows. */
export async function askToStop(context: InstanceContext, entry: InstanceEntry, graceMs: number): Promise<void> {
  const { machine } = entry
  if (machine === undefined) return
  const reached = await shutDownByAgent(context, entry, graceMs)
  if (reached && (await endsWithin(machine.exited, graceMs + POWER_OFF_MS))) return
  try {
    await machine.powerButton()
  } catch (error) {
    context.log.info({ instance: entry.id, error: messageOf(error) }, 'the power button could not be pressed; the VMM is killed')
    return
  }
  if (reached) await endsWithin(machine.exited, POWER_OFF_MS)
}

async function shutDownByAgent(context: InstanceContext, entry: InstanceEntry, graceMs: number): Promise<boolean> {
  try {
    const signal = AbortSignal.timeout(POWER_OFF_MS)
    await (await agentOf(entry, context, signal)).shutdown(graceMs, undefined, signal)
    return true
  } catch (error) {
    context.log.info({ instance: entry.id, error: messageOf(error) }, 'the guest agent could not be asked to shut down')
    return false
  }
}

async function endsWithin(ended: Promise<unknown>, ms: number): Promise<boolean> {
  try {
    await waitFor(ended, AbortSignal.timeout(ms))
    return true
  } catch {
    return false // only the time limit rejects: `exited` never does
  }
}
