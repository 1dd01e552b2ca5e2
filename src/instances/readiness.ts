// Brings a started guest to Running: reach its agent, give it its configuration (cold boot) or its identity (restore, fork).
// Safe to run again at any time, also by another server process: it asks the guest what is still to do.

import type { AgentClient, GuestIdentity, GuestWorkload } from '../agent/contract.ts'
import { NOT_DONE } from '../agent/index.ts'
import { HypemanError } from '../api/errors.ts'
import { messageOf, step, type FlowContext } from '../platform/flow.ts'
import { isAlive } from '../platform/process.ts'
import { flowOn, holdInstance, type InstanceContext } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import { agentOf, driverOf, endMachine, memoryOf, noteInVmmLog } from './machine.ts'
import { guestNetworkOf, proxyVariablesOf } from './network.ts'
import { layerPartOf } from './overlays.ts'
import type { InstanceRecord } from './record.ts'
import { afterExit, withoutPlan } from './restart-policy.ts'
import { openSecrets } from './secrets.ts'

/** Until the agent of a guest without identity must have its programs go on, in milliseconds. */
const THAW_LIMIT_MS = 5_000

/** Starts `makeReady` in the background; a guest that doesn't get ready in time is stopped, with the reason in its record and log. */
export function readyInBackground(context: InstanceContext, entry: InstanceEntry): void {
  const { machine } = entry
  const signal = AbortSignal.any([entry.stopWaiting.signal, context.stopping])
  const ready = async (): Promise<boolean> => {
    using flow = flowOn(context, entry.id, 'instance.ready', { signal })
    return await makeReady(context, entry, flow)
  }
  const work = ready().catch(async (error: unknown) => {
    if (signal.aborted) return
    if ((await entry.observe()).state === 'Running') {
      context.log.error({ instance: entry.id, error: messageOf(error) }, 'the guest runs, but not all could be done that goes with it')
      return
    }
    context.log.warn({ instance: entry.id, error: messageOf(error) }, 'the guest did not get ready and is stopped')
    using _lock = await holdInstance(context, entry)
    if (entry.machine !== machine) return
    const message = `the guest did not get ready: ${messageOf(error)}`
    try {
      await noteInVmmLog(context, entry.id, message)
    } finally {
      const isTemplate = entry.holdsMemory && entry.record.programStartedAt === null
      const exit = { code: null, message }
      // It never ran, which is a failure to its restart policy; one that goes back to standby is left there.
      const restarts = entry.holdsMemory && !isTemplate ? withoutPlan(entry.record.restarts) : afterExit(entry.record, exit, Date.now())
      await endMachine(context, entry, { exit, restarts, agentReadyAt: null, programStartedAt: null })
      if (isTemplate) await dropTemplate(context, entry, message)
    }
    context.events.state(entry.id, entry.derive('gone').state, message)
    context.events.restartPlan(entry.id, entry.record)
  })
  const readying = work.then(
    () => undefined,
    (error: unknown) =>
      context.log.error({ instance: entry.id, error: messageOf(error) }, 'the guest is not ready and could not be stopped'),
  )
  entry.readying = readying
  void readying.then(() => {
    if (entry.readying === readying) entry.readying = undefined
  })
}

/**
 * Resolves with whether the instance runs: false when its program has ended already, so that the VM is about to go off. Runs in the
 * flow given; throws `guest_unreachable` when the time is over and the agent's own error when a step fails in the guest.
 */
export async function makeReady(context: InstanceContext, entry: InstanceEntry, flow: FlowContext): Promise<boolean> {
  const { record } = entry
  const restored = record.programStartedAt !== null && record.identityDue !== null
  const limitMs = restored ? context.settings.restoreTimeoutMs : context.settings.bootTimeoutMs
  const deadline = AbortSignal.timeout(limitMs)
  const signal = AbortSignal.any([flow.signal, deadline])
  const inTime = async <T>(act: () => Promise<T>): Promise<T> => {
    try {
      return await act()
    } catch (error) {
      if (!deadline.aborted || flow.signal.aborted) throw error
      throw new HypemanError(
        'guest_unreachable',
        `the guest agent of ${record.name} did not answer within ${limitMs / 1000} s; see hypeman logs --source vmm ${record.name}`,
        { cause: error },
      )
    }
  }
  let unsafe: string | null = null
  if (restored) {
    const renewed = async (): Promise<void> => {
      const agent = await step(flow, 'agent', () => agentOf(entry, context, signal))
      await step(flow, 'identity', () => renewIdentity(context, entry, agent, signal))
    }
    try {
      await inTime(renewed)
    } catch (error) {
      unsafe = await whyUnsafe(context, entry, error, flow.signal)
    }
  } else {
    const agent = await inTime(() => step(flow, 'agent', () => agentOf(entry, context, signal)))
    if (!(await inTime(() => step(flow, 'configure', () => configure(context, entry, agent, signal))))) return false
  }
  await step(flow, 'running', () => becomeRunning(context, entry, unsafe))
  return true
}

/** What becomes known of a guest that has no identity of its own: it runs only if nobody was to wait for its agent. Throws the error of any other. */
async function whyUnsafe(context: InstanceContext, entry: InstanceEntry, error: unknown, stopping: AbortSignal): Promise<string> {
  if (!entry.record.skipGuestAgent || stopping.aborted || entry.machine === undefined) throw error
  const reason = messageOf(error)
  context.log.warn({ instance: entry.id, error: reason }, 'a guest runs without an identity of its own, as skip_guest_agent allows')
  try {
    const limit = AbortSignal.timeout(THAW_LIMIT_MS)
    await (await agentOf(entry, context, limit)).thaw(limit)
    return reason
  } catch (cause) {
    // It was saved as it ran, so that nothing stands still unless its agent had it do so just now.
    return `${reason}; whether its programs run is not known: ${messageOf(cause)}`
  }
}

/** A guest that began with a template and did not get ready: it has no memory worth keeping, and the next one is booted. */
async function dropTemplate(context: InstanceContext, entry: InstanceEntry, reason: string): Promise<void> {
  await memoryOf(context, entry.record).discardMemory(context.layout.instance(entry.id))
  entry.holdsMemory = false
  if (entry.templateKey !== undefined) await context.templates?.drop(entry.templateKey, reason)
}

/** Gives a booting guest its configuration; false if its program has ended by then, or could not be started. */
async function configure(context: InstanceContext, entry: InstanceEntry, agent: AgentClient, signal: AbortSignal): Promise<boolean> {
  const { record } = entry
  // In the order of their paths, so that none is mounted over one that lies below it.
  const volumes = record.volumes
    .map((volume, index) => ({
      disk: `vol-${index}`,
      mountPath: volume.mountPath,
      readOnly: volume.readOnly,
      layerPart: layerPartOf(record.volumes, volume),
    }))
    .toSorted((one, other) => (one.mountPath < other.mountPath ? -1 : 1))
  const identity = { ...(await identityOf(context, record)), secretFiles: openSecrets(context.sealer, record.secrets).files }
  const { steps, state } = await agent.boot(identity, volumes, workloadOf(context, record), signal)
  if (steps.length > 0) context.events.identity(entry.id, 'boot', steps)
  // From here on it is no template any more: what it has done since would be done again.
  if (entry.holdsMemory) await useUpMemory(context, entry)
  return state === 'running'
}

async function renewIdentity(context: InstanceContext, entry: InstanceEntry, agent: AgentClient, signal: AbortSignal): Promise<void> {
  const { record } = entry
  const reason = record.identityDue ?? 'restore'
  const due = record.environmentDue
    ? { env: workloadOf(context, record).env, secretFiles: openSecrets(context.sealer, record.secrets).files }
    : {}
  const steps = await agent.identity(reason, { ...(await identityOf(context, record)), ...due }, record.generation, signal)
  context.events.identity(entry.id, reason, steps)
  const failed = steps.filter((one) => !one.ok)
  if (failed.some(({ name, message }) => (name === 'environment' || name === 'secrets') && message === NOT_DONE))
    throw new HypemanError(
      'not_supported',
      `the guest agent of ${record.name} is of an older version, which can't be given variables or secret files in a fork; fork it with target_state Stopped, or without env, secret_env and secret_files`,
    )
  if (failed.length === 0) return
  const reasons = failed.map((one) => `${one.name}: ${one.message ?? 'failed'}`).join('; ')
  throw new HypemanError(
    'guest_unreachable',
    `the guest of ${record.name} could not take its identity (${reasons}), so it is not safe to run`,
  )
}

async function becomeRunning(context: InstanceContext, entry: InstanceEntry, unsafeFork: string | null): Promise<void> {
  const now = new Date().toISOString()
  const { programStartedAt, agentReadyAt, runningSince, identityDue } = entry.record
  const change = {
    ...{ programStartedAt: programStartedAt ?? now, agentReadyAt: agentReadyAt ?? now, runningSince: runningSince ?? now },
    ...{ identityDue: null, environmentDue: false, savedMemory: null, standbyCompression: null, unsafeFork },
  }
  // A fork's memory has the identity of its source: it is gone for good before the record says that the fork has its own.
  if (identityDue === 'fork' && entry.holdsMemory) {
    await consumeMemory(context, entry)
    await recordLate(context, entry, change)
  } else {
    await context.store.update(entry, change)
    await consumeMemory(context, entry)
  }
  const { name } = driverOf(context, entry.record)
  context.events.state(entry.id, 'Running', unsafeFork === null ? `${name}, agent ready` : `${name}, UNSAFE: ${unsafeFork}`)
}

/** The last thing that may fail: without its image a guest can't go back to standby. After a crash before this it is made ready once more. */
async function consumeMemory(context: InstanceContext, entry: InstanceEntry): Promise<void> {
  if (entry.machine === undefined || !isAlive(entry.machine.process))
    throw new HypemanError('guest_unreachable', `the VMM of ${entry.record.name} ended as soon as its guest was ready`)
  if (entry.holdsMemory) await useUpMemory(context, entry)
}

async function useUpMemory(context: InstanceContext, entry: InstanceEntry): Promise<void> {
  const [memory, directory] = [memoryOf(context, entry.record), context.layout.instance(entry.id)]
  try {
    await memory.consumeMemory(directory)
  } catch (error) {
    if (await memory.holdsMemory(directory)) throw error
    context.log.warn({ instance: entry.id, error: messageOf(error) }, 'files of a memory image that is used up could not be removed')
  }
  entry.holdsMemory = false
}

/** It is true whether it can be recorded or not: what is not is done once more when the server starts. */
async function recordLate(context: InstanceContext, entry: InstanceEntry, change: Partial<InstanceRecord>): Promise<void> {
  try {
    await context.store.update(entry, change)
  } catch (error) {
    entry.record = { ...entry.record, ...change }
    context.log.warn({ instance: entry.id, error: messageOf(error) }, 'the guest runs, and that it has its identity could not be recorded')
  }
}

async function identityOf(context: InstanceContext, record: InstanceRecord): Promise<GuestIdentity> {
  return {
    instanceId: record.id,
    hostname: record.name,
    machineId: record.machineId,
    network: await guestNetworkOf(context, record),
  }
}

/** The image's command with the instance's changes, as container runtimes combine them: an own entrypoint drops the image's cmd. */
function workloadOf(context: InstanceContext, record: InstanceRecord): GuestWorkload {
  const image = context.images.byDigest(record.image.digest)
  if (image === undefined)
    throw new HypemanError('not_found', `the image ${record.image.name} of the instance ${record.name} is gone; pull it again`)
  const { config } = image
  const own = { ...record.env, ...openSecrets(context.sealer, record.secrets).env }
  const entrypoint = record.entrypoint ?? config.entrypoint
  const cmd = record.cmd ?? (record.entrypoint === null ? config.cmd : [])
  return {
    argv: [...entrypoint, ...cmd],
    env: { ...config.env, ...proxyVariablesOf(context, record, own), ...own },
    cwd: config.workingDir === '' ? '/' : config.workingDir,
    user: config.user,
    stopSignal: config.stopSignal === '' ? 'SIGTERM' : config.stopSignal,
  }
}
