// Has the programs of a running guest stand still while its memory is saved, so that in what goes on from it none runs before the guest knows who it is; and has them go on
// in the guest that was saved (docs/decisions/015-programs-stand-still.md). A mark beside the record tells the next server of those that a crash has left standing.

import { writeFileSync } from 'node:fs'
import { access } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { InstanceState } from '../api/actions.ts'
import { HypemanError } from '../api/errors.ts'
import { instanceFiles } from '../files/layout.ts'
import { removeFile } from '../files/stage.ts'
import { isMissing } from '../files/tree.ts'
import type { CaptureReport, Machine } from '../hypervisors/driver.ts'
import { messageOf, step, type FlowContext } from '../platform/flow.ts'
import { holdInstance, type InstanceContext } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import { agentOf, memoryOf, specOf } from './machine.ts'
import { liveMachine } from './permission.ts'

/** Until an agent that was ready before must have done it, in milliseconds. */
const ANSWER_LIMIT_MS = 10_000
/** Between attempts to have programs go on, in milliseconds: twice as long each time, up to the second. */
const RETRY_FIRST_MS = 500
const RETRY_LAST_MS = 30_000

/** Programs of a guest that is about to be saved. Disposing it has them go on, and waits for that. */
export interface Stillness extends AsyncDisposable {
  /** Has them stand still. */
  readonly freeze: () => Promise<void>
  /** Has them go on as soon as the guest runs again; what comes of it is waited for by disposing. */
  readonly thaw: () => void
  /** The memory that was saved is all that there is of the guest now: they stay as they are. */
  readonly keep: () => Promise<void>
}

/**
 * The caller holds the instance's lock and has proved that the agent of a Running one answers. A guest that is Paused, one that was created with `skip_guest_agent`, and one
 * whose agent is too old for it are saved as they are. Programs that can't be made to go on never fail the caller: the instance is `Paused` then, its events say why, and it is
 * tried again until they do or its VMM ends.
 */
export function stillnessOf(context: InstanceContext, entry: InstanceEntry, flow: FlowContext, state: InstanceState): Stillness {
  const { machine } = entry
  if (state !== 'Running' || entry.record.skipGuestAgent || machine === undefined) return nobodys
  let frozenAt: number | undefined
  let ending: Promise<void> | undefined
  const end = async (): Promise<void> => {
    if (frozenAt !== undefined) await (ending ??= letGo(context, entry, machine, flow, frozenAt))
  }
  return {
    async freeze() {
      frozenAt = performance.now()
      writeFileSync(markOf(context, entry), '')
      if (!(await step(flow, 'freeze', () => freeze(context, entry, flow.signal))))
        flow.onStep({ flow: flow.flow, step: 'programs-run', ms: 0, note: tooOld })
    },
    thaw: () => void end(),
    async keep() {
      ending = Promise.resolve()
      await removeFile(markOf(context, entry))
    },
    [Symbol.asyncDispose]: end,
  }
}

const tooOld =
  "the guest's agent is older than the server and can't have programs stand still: forks of this memory are refused; stop and start the instance"

const nobodys: Stillness = {
  freeze: () => Promise.resolve(),
  thaw: () => undefined,
  keep: () => Promise.resolve(),
  [Symbol.asyncDispose]: () => Promise.resolve(),
}

/** Freezes a running machine into `target`; its programs stand still for as short as its driver can tell. The caller holds the lock and has proved its agent. */
export async function captureMemory(
  context: InstanceContext,
  entry: InstanceEntry,
  flow: FlowContext,
  target: string,
): Promise<CaptureReport> {
  const memory = memoryOf(context, entry.record)
  const machine = liveMachine(entry)
  await using still = stillnessOf(context, entry, flow, 'Running')
  const report = await step(flow, 'capture', async () => {
    const tells = memory.tellsPause === true
    if (!tells) await still.freeze()
    const around = tells ? { before: still.freeze, after: still.thaw } : undefined
    return memory.capture(machine, specOf(context, entry.record), target, flow.signal, around)
  })
  flow.onStep({ flow: flow.flow, step: 'source-paused', ms: report.pausedMs, note: report.note })
  // What was saved is whole all the same; that its source stands still is told where people look for it.
  if (report.notResumed !== undefined) flow.onStep({ flow: flow.flow, step: 'resume', ms: 0, error: report.notResumed })
  return report
}

async function freeze(context: InstanceContext, entry: InstanceEntry, signal: AbortSignal): Promise<boolean> {
  const deadline = AbortSignal.timeout(ANSWER_LIMIT_MS)
  const either = AbortSignal.any([signal, deadline])
  try {
    return await (await agentOf(entry, context, either)).freeze(either)
  } catch (cause) {
    if (!deadline.aborted || signal.aborted) throw cause
    throw new HypemanError(
      'guest_unreachable',
      `the guest agent of ${entry.record.name} did not have its programs stand still within ${ANSWER_LIMIT_MS / 1000} s; nothing was saved`,
      { cause },
    )
  }
}

/** `frozenAt` is when they were asked to stand still, as `performance.now()` tells it. */
async function letGo(context: InstanceContext, entry: InstanceEntry, machine: Machine, flow: FlowContext, frozenAt: number): Promise<void> {
  const began = performance.now()
  const tell = (name: string, since: number, error?: unknown): void => {
    const failure = error === undefined ? {} : { error: messageOf(error) }
    flow.onStep({ flow: flow.flow, step: name, ms: performance.now() - since, ...failure })
  }
  try {
    await thaw(context, entry)
    tell('thaw', began)
    tell('programs-still', frozenAt)
  } catch (error) {
    if (entry.machine !== machine) return // nothing of it runs any more
    tell('thaw', began, error)
    entry.standsStill = true
    keepTrying(context, entry, machine)
  }
}

/** A connection that breaks meanwhile is made anew, once. No caller's signal ends it: programs must not be left standing because somebody has lost interest. */
async function thaw(context: InstanceContext, entry: InstanceEntry): Promise<void> {
  const limit = AbortSignal.timeout(ANSWER_LIMIT_MS)
  const attempt = async (): Promise<void> => (await agentOf(entry, context, limit)).thaw(limit)
  await attempt().catch((error: unknown) => {
    if (limit.aborted || entry.machine === undefined) throw error
    return attempt()
  })
  await removeFile(markOf(context, entry))
}

/** At the start of a server: has the programs of a machine go on that the last one had stand still. */
export async function endStillness(context: InstanceContext, entry: InstanceEntry): Promise<void> {
  const { machine } = entry
  if (machine === undefined || !(await isMarked(markOf(context, entry)))) return
  entry.standsStill = true
  keepTrying(context, entry, machine)
}

/** Tries until it is done, the machine is gone, or the server stops. Each attempt has the instance's lock, as nobody may be saving it meanwhile. */
function keepTrying(context: InstanceContext, entry: InstanceEntry, machine: Machine): void {
  const work = async (): Promise<void> => {
    for (let waitMs = RETRY_FIRST_MS; entry.machine === machine && entry.standsStill; waitMs = Math.min(waitMs * 2, RETRY_LAST_MS)) {
      const outcome = await attemptAlone(context, entry, machine)
      if (outcome === 'done') return
      context.log.warn(
        { instance: entry.id, error: messageOf(outcome) },
        'the programs of a guest stand still and could not be made to go on; it is tried again',
      )
      await delay(waitMs, undefined, { signal: AbortSignal.any([context.stopping, entry.stopWaiting.signal]) })
    }
  }
  work().catch((error: unknown) => {
    if (!context.stopping.aborted && entry.machine === machine)
      context.log.error(
        { instance: entry.id, error: messageOf(error) },
        'the programs of a guest stand still; stop the instance, or put it in standby and restore it',
      )
  })
}

async function attemptAlone(context: InstanceContext, entry: InstanceEntry, machine: Machine): Promise<'done' | Error> {
  try {
    using _lock = await holdInstance(context, entry)
    if (entry.machine !== machine || !entry.standsStill) return 'done'
    // One that could not be made to run again has no agent that answers.
    if ((await machine.status()) === 'paused') await machine.resume()
    await thaw(context, entry)
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error))
  }
  entry.standsStill = false
  context.events.state(entry.id, entry.derive(await machine.status()).state, 'its programs go on')
  return 'done'
}

/** A machine that starts has programs that go on, or is told so with its identity. */
export async function forgetStillness(context: InstanceContext, entry: InstanceEntry): Promise<void> {
  entry.standsStill = false
  await removeFile(markOf(context, entry))
}

function markOf(context: InstanceContext, entry: InstanceEntry): string {
  return path.join(context.layout.instance(entry.id), instanceFiles.frozen)
}

async function isMarked(mark: string): Promise<boolean> {
  try {
    await access(mark)
    return true
  } catch (error) {
    if (isMissing(error)) return false
    throw error
  }
}
