// What may be asked of instances: find, then run the flow, then show. Locks and rules are the flows' own.

import { HypemanError, isHypemanError } from '../api/errors.ts'
import { instanceEvent, type InstanceEvent } from '../api/events.ts'
import { matchesTags } from '../api/schemas/common.ts'
import type { EventsQuery } from '../api/schemas/instance-requests.ts'
import { step } from '../platform/flow.ts'
import { withinLimit } from './agent-limit.ts'
import { attachVolume, detachVolume } from './attach.ts'
import { flowOn, lockInstance, type InstanceContext } from './context.ts'
import { createInstance } from './create.ts'
import type { InstanceEntry } from './entry.ts'
import { forkInstance } from './fork.ts'
import { autoStandbyStatusOf, holdAwake, occupy } from './idle.ts'
import { readLogs } from './logs.ts'
import { agentOf } from './machine.ts'
import { removeInstance, removeUnreadable } from './remove.ts'
import { attachmentOf, changeOf, createRequestOf, environmentOf, sizeOf, standbyRequestOf } from './requests.ts'
import { resizeInstance } from './resize.ts'
import { restoreInstance, startInstance } from './restore.ts'
import { standbyInstance } from './standby.ts'
import { statsOf } from './stats.ts'
import { stopInstance } from './stop.ts'
import type { DerivedState } from './state.ts'
import type { InstanceService } from './types.ts'
import { unreadableViewOf, viewOf } from './view.ts'
import { waitForState } from './wait.ts'

/** Longest moment for which a guest that stands still is waited for, in milliseconds. */
const PAUSED_WAIT_MS = 10_000
/** How long a guest may take to look at a path, in milliseconds: what is mounted there may never answer. */
const STAT_LIMIT_MS = 10_000

/** `removed` is told after an instance is gone, for what nobody else needs then. */
export function createInstanceService(context: InstanceContext, removed: () => void): InstanceService {
  const find = (ref: string): InstanceEntry => context.store.find(ref)
  /** Runs a flow on an instance and shows it afterwards. */
  const change = async (ref: string, flow: (entry: InstanceEntry) => Promise<void>): ReturnType<InstanceService['get']> => {
    const entry = find(ref)
    await flow(entry)
    return viewOf(entry)
  }
  return {
    async create(body, by) {
      return viewOf(await createInstance(context, createRequestOf(context, body, by)))
    },
    async list({ state, tags }) {
      const entries = [...context.store.entries()].filter(({ record }) => matchesTags(record.tags, tags))
      const views = await Promise.all(entries.map(viewOf))
      if (tags === undefined) views.push(...context.store.unreadable().map(unreadableViewOf))
      return state === undefined ? views : views.filter((view) => view.state === state)
    },
    async get(ref) {
      const unreadable = context.store.unreadable().find(({ id }) => id === ref)
      return unreadable === undefined ? viewOf(find(ref)) : unreadableViewOf(unreadable)
    },
    update: (ref, body, by) =>
      change(ref, async (entry) => {
        const changeOfRecord = changeOf(context, body, by)
        // What can be refused at once waits for nobody.
        changeOfRecord(entry.record)
        using _lock = await lockInstance(context, entry)
        const size = sizeOf(body)
        if (size !== undefined) await resizeInstance(context, entry, size)
        const change = changeOfRecord(entry.record)
        if (Object.keys(change).length === 0) return
        using flow = flowOn(context, entry.id, 'instance.update')
        await step(flow, 'record', () => context.store.update(entry, change))
        if (change.healthCheck !== undefined) entry.health = undefined
      }),
    async remove(ref, { gracefulShutdown }) {
      if (!(await removeUnreadable(context, ref))) await removeInstance(context, find(ref), { graceful: gracefulShutdown })
      removed()
    },
    start: (ref, body) => change(ref, (entry) => startInstance(context, entry, body)),
    stop: (ref) => change(ref, (entry) => stopInstance(context, entry)),
    standby: (ref, body) => change(ref, (entry) => standbyInstance(context, entry, standbyRequestOf(body))),
    restore: (ref) => change(ref, (entry) => restoreInstance(context, entry)),
    async fork(ref, body, by) {
      const request = {
        ...{ name: body.name, fromRunning: body.from_running, targetState: body.target_state, targetHypervisor: body.target_hypervisor },
        ...{ owner: by, environment: environmentOf(body) },
      }
      return viewOf(await forkInstance(context, find(ref), request))
    },
    attachVolume: (ref, volumeRef, body) => change(ref, (entry) => attachVolume(context, entry, attachmentOf(context, volumeRef, body))),
    detachVolume: (ref, volumeRef) => change(ref, (entry) => detachVolume(context, entry, volumeRef)),
    async wait(ref, state, timeoutMs, signal) {
      const { state: reached, timedOut, error } = await waitForState(context, find(ref), state, timeoutMs, signal)
      return { state: reached, timed_out: timedOut, ...(error === undefined ? {} : { state_error: error }) }
    },
    async *logs(ref, query, signal) {
      const entry = find(ref)
      using _use = query.follow ? occupy(entry) : undefined
      yield* readLogs(context.layout.instance(entry.id), query, untilStopped(context, signal))
    },
    events: (ref, query, signal) => readEvents(context, find(ref), query, untilStopped(context, signal)),
    async stat(ref, path, followLinks, signal) {
      const entry = find(ref)
      using _use = occupy(entry)
      await demandGuest(context, entry, 0, signal)
      const found = await withinLimit(entry, STAT_LIMIT_MS, signal, async (limited) =>
        (await agentOf(entry, context, limited)).stat(path, followLinks, limited),
      )
      if (!found.exists) return { exists: false, ...(found.error === undefined ? {} : { error: found.error }) }
      return {
        exists: true,
        is_dir: found.isDir,
        is_file: found.isFile,
        is_symlink: found.isSymlink,
        ...(found.linkTarget === undefined ? {} : { link_target: found.linkTarget }),
        mode: found.mode,
        size: found.size,
      }
    },
    stats: async (ref, signal) => statsOf(context, find(ref), signal),
    autoStandbyStatus: async (ref) => autoStandbyStatusOf(context, find(ref)),
    holdAwake: async (ref) => holdAwake(context, find(ref)),
    occupy: (ref) => occupy(find(ref)),
    agent: async (ref, waitMs, signal) => guestOf(context, find(ref), waitMs, signal),
  }
}

function untilStopped(context: InstanceContext, signal: AbortSignal): AbortSignal {
  return AbortSignal.any([signal, context.stopping])
}

/** The agent of a Running instance; one that is not there yet is waited for. */
async function guestOf(
  context: InstanceContext,
  entry: InstanceEntry,
  waitMs: number,
  signal: AbortSignal,
): ReturnType<InstanceService['agent']> {
  await demandGuest(context, entry, waitMs, signal)
  return agentOf(entry, context, signal)
}

/** An error unless the instance has an agent and is Running, as soon as it is. */
async function demandGuest(context: InstanceContext, entry: InstanceEntry, waitMs: number, signal: AbortSignal): Promise<void> {
  const { record } = entry
  if (record.skipGuestAgent)
    throw new HypemanError('invalid_state', `${record.name} was created with skip_guest_agent, so nothing can be run or copied in it`)
  const { state } = await stateForGuest(context, entry, waitMs, signal)
  if (state !== 'Running')
    throw new HypemanError('invalid_state', `instance must be running (current state: ${state}); hypeman start ${record.name}`)
}

/** With `waitMs` an instance may still become Running. One that stands still for a snapshot does so for a moment only, and is waited for in any case. */
async function stateForGuest(context: InstanceContext, entry: InstanceEntry, waitMs: number, signal: AbortSignal): Promise<DerivedState> {
  const seen = await entry.observePatiently()
  const limitMs = seen.state === 'Paused' ? Math.max(waitMs, PAUSED_WAIT_MS) : waitMs
  return seen.state === 'Running' || limitMs === 0 ? seen : waitForState(context, entry, 'Running', limitMs, signal)
}

/** Events are the lines of the instance's own log; one that can't be read is passed over, so that it does not hide the others. */
async function* readEvents(
  context: InstanceContext,
  entry: InstanceEntry,
  query: EventsQuery,
  signal: AbortSignal,
): AsyncGenerator<InstanceEvent> {
  await context.events.written(entry.id)
  const lines = readLogs(context.layout.instance(entry.id), { source: 'hypeman', ...query }, signal)
  try {
    for await (const line of lines) {
      const parsed = instanceEvent.safeParse(parseJson(line))
      if (parsed.success) yield parsed.data
      else context.log.warn({ instance: entry.id, line: line.slice(0, 200) }, "an event can't be read")
    }
  } catch (error) {
    // An instance to which nothing has happened yet has no log, and so no events.
    if (!isHypemanError(error, 'log_not_found')) throw error
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined // the caller reports the line
  }
}
