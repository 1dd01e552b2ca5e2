// Starts a VMM for a committed instance: cold from its disks, or from the memory in its directory. Both need the instance's lock.

import { appendFile, mkdir } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import path from 'node:path'
import { HypemanError } from '../api/errors.ts'
import { instanceFiles } from '../files/layout.ts'
import type { Machine } from '../hypervisors/driver.ts'
import { step, type FlowContext } from '../platform/flow.ts'
import { Turns } from '../platform/turns.ts'
import { reserveFor } from './capacity.ts'
import type { InstanceContext } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import { bootMark } from './exit.ts'
import { attach, driverOf, endMachine, memoryOf, openAgent, specOf } from './machine.ts'
import { attachNetwork, claimNetwork } from './network.ts'
import { makeReady, readyInBackground } from './readiness.ts'
import type { InstanceRecord } from './record.ts'
import { withoutPlan } from './restart-policy.ts'
import { demandMemory } from './saved-memory.ts'
import { forgetStillness } from './stillness.ts'
import { openSecrets } from './secrets.ts'

/**
 * Boots a stopped instance. With `background` it returns when the process runs, and the guest gets ready by itself (`entry.readying`);
 * with `await` when the agent has answered, and on failure the instance is stopped as before.
 */
export async function bootInstance(
  context: InstanceContext,
  entry: InstanceEntry,
  flow: FlowContext,
  ready: 'background' | 'await',
): Promise<void> {
  await using undo = new AsyncDisposableStack()
  const before = entry.record
  const driver = driverOf(context, before)
  // What no key opens is refused before anything is started.
  openSecrets(context.sealer, before.secrets)
  using _share = reserveFor(context, before, true)
  using held = new DisposableStack()
  const { network } = await step(flow, 'ports', async () => held.use(await claimNetwork(context, before)))
  undo.defer(() => context.store.update(entry, before))
  const fresh = {
    startedAt: new Date().toISOString(),
    stoppedAt: null,
    programStartedAt: null,
    agentReadyAt: null,
    runningSince: null,
    identityDue: null,
    unsafeFork: null,
    balloon: null,
    exit: null,
    kernelId: context.kernel.id,
    stamp: await driver.stamp(),
  }
  await step(flow, 'record', () => context.store.update(entry, { ...fresh, network }))
  await step(flow, 'log', () => markBoot(context, entry))
  undo.defer(() => endMachine(context, entry))
  if (network?.kind === 'tap') await step(flow, 'network', () => attachNetwork(context, entry.id, network))
  await step(flow, 'vmm', async () => startProcess(context, entry, await driver.boot(specOf(context, entry.record), flow.signal)))
  context.events.state(entry.id, 'Initializing', 'booting')
  if (ready === 'await' && !(await makeReady(context, entry, flow)))
    throw new HypemanError(
      'conflict',
      `the program of ${before.name} ended as soon as it was started; see hypeman logs, or give it another command`,
    )
  undo.move()
  if (ready === 'background') readyInBackground(context, entry)
}

/**
 * Runs a standby instance again from its memory, by a new process or one that has loaded it already; with `await` it returns when its agent has answered, with `background` when its guest runs. On failure it is in
 * standby as before.
 */
export async function resumeInstance(
  context: InstanceContext,
  entry: InstanceEntry,
  flow: FlowContext,
  { ready = 'await', loaded }: { readonly ready?: 'background' | 'await'; readonly loaded?: Machine | undefined } = {},
): Promise<void> {
  await using undo = new AsyncDisposableStack()
  const { stamp } = entry.record
  if (!entry.holdsMemory || stamp === null)
    throw new HypemanError('invalid_state', `the instance ${entry.record.name} holds no memory image to restore; use hypeman start`)
  const memory = memoryOf(context, entry.record)
  if (entry.record.environmentDue) openSecrets(context.sealer, entry.record.secrets)
  using _share = reserveFor(context, entry.record, true)
  if (entry.record.savedMemory !== null) await demandMemory(context, entry, flow)
  const before = entry.record
  using _turn = await loads.take(flow.signal)
  using held = new DisposableStack()
  const { network } = await step(flow, 'ports', async () => held.use(await claimNetwork(context, before)))
  undo.defer(async () => {
    // Once its image is used up, the machine is all that there is of the guest: it stays.
    if (!entry.holdsMemory) return
    await endMachine(context, entry)
    await context.store.update(entry, before)
  })
  // A guest that was never configured is a template's: what it gets is its first configuration, not another identity.
  const renewed =
    before.programStartedAt === null ? {} : { identityDue: before.identityDue ?? ('restore' as const), generation: before.generation + 1 }
  // Recorded with the process, before the guest runs: one record to be synced instead of two.
  const change = { stoppedAt: null, runningSince: null, exit: null, ...renewed, network }
  if (network?.kind === 'tap') await step(flow, 'network', () => attachNetwork(context, entry.id, network))
  await step(flow, 'load', async () =>
    startProcess(context, entry, loaded ?? (await memory.restore(specOf(context, { ...before, ...change }), stamp, flow.signal)), change),
  )
  // The channel is open before the guest runs: its agent finds it as it was, need not look for it again, and is told all at once.
  void openAgent(entry, context, true)
  await step(flow, 'resume', () => entry.machine?.resume())
  if (ready === 'background') context.events.state(entry.id, 'Initializing', 'booted already')
  else await makeReady(context, entry, flow)
  undo.move()
  if (ready === 'background') readyInBackground(context, entry)
}

/** How many guests at once are loaded and made ready: fifty together took half as much processor time again as four at a time (two cores, emulation, November 2026). */
export const LOADS_AT_ONCE = 2 * availableParallelism()
/** A load that takes longer is no longer waited for, in milliseconds. */
export const LONG_LOAD_MS = 1_000
const loads = new Turns(LOADS_AT_ONCE, LONG_LOAD_MS)

/** Records the process before anything else can happen to it, so that no restart of the server loses it. A start that was planned is made with that. */
async function startProcess(
  context: InstanceContext,
  entry: InstanceEntry,
  machine: Machine,
  change: Partial<InstanceRecord> = {},
): Promise<void> {
  // What an earlier machine was made to stand still for is over.
  await forgetStillness(context, entry)
  attach(context, entry, machine)
  await context.store.update(entry, { ...change, process: machine.process, restarts: withoutPlan(entry.record.restarts) })
}

/** Divides the console log into boots (exit.ts) and makes sure that its directory is there. */
async function markBoot(context: InstanceContext, entry: InstanceEntry): Promise<void> {
  const directory = context.layout.instance(entry.id)
  await mkdir(path.join(directory, instanceFiles.logs), { recursive: true })
  await appendFile(path.join(directory, instanceFiles.consoleLog), bootMark())
}
