// Flow: an instance is started again by itself, from its disks, when its restart policy says so (restart-policy.ts). What is planned stands in its record.

import { isAlive } from '../platform/process.ts'
import { reserveFor } from './capacity.ts'
import { flowOn, lockInstance, type InstanceContext } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import { isUnhealthy } from './health.ts'
import { settleExit } from './machine.ts'
import { afterExit, isRestartDue, takeAttempt, withoutPlan } from './restart-policy.ts'
import { bootInstance } from './start.ts'
import { endRunning } from './stop.ts'

/** Makes the attempt that is due, unless it was called off before the instance's turn comes. One that fails is planned again, or given up. */
export async function restartInstance(context: InstanceContext, entry: InstanceEntry): Promise<void> {
  using _lock = await lockInstance(context, entry)
  if (!isRestartDue(entry.record, Date.now())) return
  // One that runs got well, or nothing is known of its health: after a restart of the server its checks begin anew.
  if (entry.machine !== undefined && !isUnhealthy(entry.health, entry.record)) {
    await context.store.update(entry, { restarts: withoutPlan(entry.record.restarts) })
    return
  }
  await context.store.update(entry, { restarts: takeAttempt(entry.record, Date.now()) })
  const { restarts } = entry.record
  if (restarts.nextAttemptAt === null) return context.events.restartPlan(entry.id, entry.record)
  context.events.restart(entry.id, restarts, `attempt ${restarts.attempts} to start it again begins`)
  using flow = flowOn(context, entry.id, 'instance.restart')
  try {
    // What it gives up by being stopped is nobody else's before it runs again.
    using _share = reserveFor(context, entry.record, true)
    if (entry.machine !== undefined)
      await endRunning(context, entry, flow, {
        exit: { code: null, message: `stopped since its health check failed: ${entry.health?.lastError ?? 'no reason given'}` },
      })
    await bootInstance(context, entry, flow, 'background')
  } catch (error) {
    // A server that stops leaves the plan to the next one.
    if (!context.stopping.aborted) await planAgain(context, entry)
    throw error
  }
}

/** Whether it has ended and that could not be recorded when it happened, as on a full disk: then nothing is planned yet. */
export function isUnsettled({ record, machine, settling }: InstanceEntry): boolean {
  return record.restartPolicy !== null && record.process !== null && machine === undefined && !settling && !isAlive(record.process)
}

/** Records such an end after all. */
export async function settleLate(context: InstanceContext, entry: InstanceEntry): Promise<void> {
  const { process } = entry.record
  if (process !== null) await settleExit(context, entry, { process }, 'the VMM ended')
}

async function planAgain(context: InstanceContext, entry: InstanceEntry): Promise<void> {
  await context.store.update(entry, { restarts: afterExit({ ...entry.record, runningSince: null }, null, Date.now()) })
  context.events.restartPlan(entry.id, entry.record)
}
