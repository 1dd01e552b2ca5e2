// Takes memory back from running guests for a while, by the balloons of their machines. What was asked of a guest, and until when, is in its record: whatever becomes of
// the server, the memory is given back when the time is over.

import { setTimeout as delay } from 'node:timers/promises'
import { HypemanError } from '../api/errors.ts'
import type { ReclaimMemoryBody, ReclaimedMemory } from '../api/schemas/resources.ts'
import { formatDuration, formatSize, parseDuration } from '../api/units.ts'
import type { Balloon, Machine } from '../hypervisors/driver.ts'
import { messageOf, step } from '../platform/flow.ts'
import { flowOn, holdInstance, lockInstance, type InstanceContext } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import { driverOf } from './machine.ts'
import type { InstanceRecord } from './record.ts'
import { floorOf, planReclaim } from './reclaim-plan.ts'

/** Until what was taken is given back, in milliseconds: if nothing is said, and at most. */
const HOLD_MS = 300_000
const LONGEST_HOLD_MS = 3_600_000
/** A guest that is busy with an operation is left alone after this time, in milliseconds. */
const LOCK_WAIT_MS = 2_000
/** Until a VMM must have taken the order, in milliseconds. */
const ASK_LIMIT_MS = 10_000
/** How long the answer waits for guests to give what was asked for, and how often it looks, in milliseconds. */
const GIVE_WAIT_MS = 2_000
const GIVE_POLL_MS = 50
/** What could not be given back is tried again after this time, in milliseconds. */
const RETRY_MS = 30_000
/** Of what the host has: with less left it is short of memory. */
const PRESSURE_PART = 0.1

type Action = ReclaimedMemory['actions'][number]

/** A guest that runs. */
interface Candidate {
  readonly entry: InstanceEntry
  readonly machine: Machine
  readonly balloon: Balloon | undefined
}

/** `hostMemoryBytes` is what the host has in all. */
export async function reclaimMemory(context: InstanceContext, body: ReclaimMemoryBody, hostMemoryBytes: number): Promise<ReclaimedMemory> {
  const holdMs = holdOf(body)
  if (!(await canReclaim(context)))
    throw new HypemanError(
      'not_supported',
      'no hypervisor of this server takes memory back from a running machine; put instances on standby to have their memory',
    )
  using _turn = await context.locks.acquire('reclaim', { waitMs: context.settings.lockWaitMs, what: 'the reclaim of memory' })
  const candidates = await candidatesOf(context)
  const able = candidates.filter(({ balloon }) => balloon !== undefined)
  const plan = planReclaim(
    able.map(({ entry }) => entry.record.memoryBytes),
    body.reclaim_bytes,
  )
  const until = new Date(Date.now() + holdMs).toISOString()
  const actions = await Promise.all(
    candidates.map(async (one) => {
      const wanted = plan[able.indexOf(one)] ?? 0
      if (one.balloon === undefined) return unsupported(one)
      return body.dry_run ? actionOf(one, wanted, 'planned', {}) : take(context, one, one.balloon, wanted, { until, reason: body.reason })
    }),
  )
  const sum = (what: (action: Action) => number): number => actions.reduce((total, action) => total + what(action), 0)
  const [planned, applied] = [
    sum((one) => one.assigned_memory_bytes - one.planned_target_guest_memory_bytes),
    sum((one) => one.applied_reclaim_bytes),
  ]
  if (!body.dry_run)
    context.log.info(
      { asked: body.reclaim_bytes, planned, applied, holdMs, reason: body.reason },
      'memory was taken back from running guests',
    )
  const available = process.availableMemory()
  return {
    requested_reclaim_bytes: body.reclaim_bytes,
    planned_reclaim_bytes: planned,
    applied_reclaim_bytes: applied,
    host_available_bytes: available,
    host_pressure_state: available < hostMemoryBytes * PRESSURE_PART ? 'pressure' : 'healthy',
    ...(body.dry_run || planned === 0 ? {} : { hold_until: until }),
    actions,
  }
}

function holdOf({ hold_for: text }: ReclaimMemoryBody): number {
  const holdMs = text === undefined ? HOLD_MS : (parseDuration(text) ?? 0)
  if (holdMs <= LONGEST_HOLD_MS) return holdMs
  throw new HypemanError(
    'invalid_request',
    `hold_for: at most ${formatDuration(LONGEST_HOLD_MS)}, not ${text}; ask again before it is over`,
  )
}

async function candidatesOf(context: InstanceContext): Promise<readonly Candidate[]> {
  const found = await Promise.all(
    [...context.store.entries()].map(async (entry) => {
      const { state } = await entry.observe()
      const { machine } = entry
      return state === 'Running' && machine !== undefined ? [{ entry, machine, balloon: driverOf(context, entry.record).balloon }] : []
    }),
  )
  return found.flat()
}

/** Asks one guest for so much in all, and tells what it has given by the time of the answer. */
async function take(
  context: InstanceContext,
  candidate: Candidate,
  balloon: Balloon,
  wanted: number,
  { until, reason }: { readonly until: string; readonly reason: string | undefined },
): Promise<Action> {
  const { entry, machine } = candidate
  const before = entry.record.balloon
  if (wanted === 0 && before === null) return actionOf(candidate, 0, 'unchanged', {})
  try {
    using _lock = await holdInstance(context, entry, LOCK_WAIT_MS)
    if (context.store.byId(entry.id) !== entry || entry.machine !== machine || (await entry.observe()).state !== 'Running')
      throw new HypemanError('invalid_state', `${entry.record.name} does not run any more`)
    await order(context, candidate, balloon, wanted === 0 ? null : { bytes: wanted, until }, reason)
  } catch (error) {
    return actionOf(candidate, wanted, 'error', { before, target: entry.record.balloon?.bytes ?? 0, error: messageOf(error) })
  }
  const given = await givenBy(context, candidate, balloon, wanted)
  return actionOf(candidate, wanted, given >= wanted ? 'applied' : 'pending', { before, target: wanted, given: Math.min(given, wanted) })
}

/** Asks the guest, which the caller holds. What is to be given back some day is on record before it is taken, and until it is given. */
async function order(
  context: InstanceContext,
  { entry, machine }: Candidate,
  balloon: Balloon,
  wanted: InstanceRecord['balloon'],
  reason?: string,
): Promise<void> {
  using flow = flowOn(context, entry.id, 'instance.reclaim')
  // There is no undo: a guest that did not answer may have done it, so what is on record stays until it is let go. To let go of what was never taken does no harm.
  if (wanted !== null) await step(flow, 'record', () => context.store.update(entry, { balloon: wanted }))
  const limit = AbortSignal.any([flow.signal, AbortSignal.timeout(ASK_LIMIT_MS)])
  await step(flow, 'ask', () => balloon.ask(machine, wanted?.bytes ?? 0, limit))
  if (wanted === null) await step(flow, 'let-go', () => context.store.update(entry, { balloon: null }))
  const because = reason === undefined ? '' : `: ${reason}`
  const note =
    wanted === null ? 'all of its memory is its own again' : `asked for ${formatSize(wanted.bytes)} until ${wanted.until}${because}`
  flow.onStep({ flow: flow.flow, step: 'balloon', ms: 0, note })
}

/** What the guest has given, once that is what was asked for, or the answer can't wait any longer. */
async function givenBy({ log }: InstanceContext, { entry, machine }: Candidate, balloon: Balloon, wanted: number): Promise<number> {
  const limit = AbortSignal.timeout(GIVE_WAIT_MS)
  let given = 0
  try {
    for (;;) {
      given = await balloon.given(machine, limit)
      if (given >= wanted || limit.aborted) return given
      await delay(GIVE_POLL_MS, undefined, { signal: limit })
    }
  } catch (error) {
    if (!limit.aborted) log.warn({ instance: entry.id, error: messageOf(error) }, 'what a guest has given back can not be told')
    return given
  }
}

function unsupported(candidate: Candidate): Action {
  const { hypervisor } = candidate.entry.record
  return actionOf(candidate, 0, 'unsupported', {
    error: `${hypervisor} takes no memory back from a running machine; put the instance on standby`,
  })
}

/** `target` and `given` are what it is asked for in all from now on, and what it has given of that. */
function actionOf(
  { entry: { record } }: Candidate,
  planned: number,
  status: 'planned' | 'unchanged' | 'applied' | 'pending' | 'unsupported' | 'error',
  {
    before = record.balloon,
    target,
    given = 0,
    error,
  }: { readonly before?: InstanceRecord['balloon']; readonly target?: number; readonly given?: number; readonly error?: string },
): Action {
  const { memoryBytes } = record
  return {
    instance_id: record.id,
    instance_name: record.name,
    hypervisor: record.hypervisor,
    assigned_memory_bytes: memoryBytes,
    protected_floor_bytes: floorOf(memoryBytes),
    previous_target_guest_memory_bytes: memoryBytes - (before?.bytes ?? 0),
    planned_target_guest_memory_bytes: memoryBytes - planned,
    target_guest_memory_bytes: memoryBytes - (target ?? before?.bytes ?? 0),
    applied_reclaim_bytes: given,
    status,
    ...(error === undefined ? {} : { error }),
  }
}

/** Whether a hypervisor that can run here takes memory back. */
async function canReclaim({ drivers }: InstanceContext): Promise<boolean> {
  for (const driver of drivers.values()) if (driver.balloon !== undefined && (await driver.unavailable()) === undefined) return true
  return false
}

/** Whether a running guest was asked for memory that is to be given back by now. */
export function isReclaimOver({ record, machine, reclaimRetryMs }: InstanceEntry, nowMs: number): boolean {
  return record.balloon !== null && machine !== undefined && nowMs >= Date.parse(record.balloon.until) && nowMs >= reclaimRetryMs
}

/** Gives the memory back, if that is still due when its turn has come. */
export async function endReclaim(context: InstanceContext, entry: InstanceEntry): Promise<void> {
  using _lock = await lockInstance(context, entry)
  const { machine, record } = entry
  if (machine === undefined || record.balloon === null || Date.now() < Date.parse(record.balloon.until)) return
  const { balloon } = driverOf(context, record)
  try {
    if (balloon === undefined) await context.store.update(entry, { balloon: null })
    else await order(context, { entry, machine, balloon }, balloon, null)
  } catch (error) {
    entry.reclaimRetryMs = Date.now() + RETRY_MS
    throw error
  }
}
