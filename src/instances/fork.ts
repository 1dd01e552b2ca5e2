// Flow: a new instance from a payload (a snapshot's, or one made of an instance for this fork alone). The answer comes when the fork's own agent has answered.

import { mkdir } from 'node:fs/promises'
import path from 'node:path'
import type { TargetState } from '../api/actions.ts'
import { HypemanError } from '../api/errors.ts'
import { instanceFiles } from '../files/layout.ts'
import { createStaged, stageRecord, type StagedDirectory } from '../files/stage.ts'
import type { HypervisorName, Machine } from '../hypervisors/driver.ts'
import { step, together, type FlowContext, type StepEvent } from '../platform/flow.ts'
import { newId, newMachineId } from '../platform/ids.ts'
import { Turns } from '../platform/turns.ts'
import { checkCopy, reserveFor } from './capacity.ts'
import { flowOn, holdInstance, lockInstance, type InstanceContext } from './context.ts'
import { fillFromPayload } from './disks.ts'
import { InstanceEntry } from './entry.ts'
import { demandFit } from './fit.ts'
import { driverOf } from './machine.ts'
import { forkedNetwork } from './network.ts'
import { permit } from './permission.ts'
import { proveAgent } from './probe.ts'
import { firstPhase } from './phases.ts'
import type { InstanceRecord } from './record.ts'
import { removeCommitted } from './remove.ts'
import { noRestarts } from './restart-policy.ts'
import { demandMemory, sealMemory } from './saved-memory.ts'
import { standbyCompressionOf } from './snapshot-policy.ts'
import { suspendInstance } from './standby.ts'
import { changedEnvironment, inheritedSecrets, isGiven, type Environment, type EnvironmentChange } from './secrets.ts'
import { bootInstance, LOADS_AT_ONCE, LONG_LOAD_MS, resumeInstance } from './start.ts'
import type { Spare } from './spares.ts'
import { captureMemory } from './stillness.ts'
import { claimVolumes, forbidWritableVolumes } from './volumes.ts'

/** Where a fork comes from: a directory that nobody changes meanwhile, and the record that goes with it. */
export interface ForkSource {
  readonly payload: string
  readonly withMemory: boolean
  readonly record: InstanceRecord
  readonly snapshotId: string | null
  /** Completes the payload before it is used, as a part of the fork's flow; what comes back is told in the fork's events, which are there once it is committed. */
  readonly prepare?: (flow: FlowContext) => Promise<StepEvent | undefined>
  /** A spare fork of the same payload, which is used up with the fork. */
  readonly spare?: Spare | undefined
  /** Rejects if the payload is not what it was when it was made; asked while the fork's directory is made, and heard before that is committed. */
  readonly check?: () => Promise<void>
}

export interface ForkRequest {
  readonly name: string
  /** Who asks. */
  readonly owner: string
  /** Variables and secret files of its own, beside the source's. */
  readonly environment: EnvironmentChange
  readonly targetState: TargetState
  readonly hypervisor: HypervisorName
}

/** Makes the fork and brings it to its target state; a failed fork leaves nothing. */
export async function forkFromPayload(context: InstanceContext, source: ForkSource, request: ForkRequest): Promise<InstanceEntry> {
  const id = source.spare?.id ?? newId()
  using _name = context.store.reserveName(request.name, id)
  forbidWritableVolumes(source.record, 'a fork')
  using _volumes = await claimVolumes(context, source.record.volumes)
  using _share = reserveForFork(context, id, source, request)
  return await makeFork(context, id, source, request)
}

/** What the fork has of its source's variables, and of its own; throws if it may not have them. */
export function environmentOfFork(
  { sealer }: InstanceContext,
  { record, withMemory }: Pick<ForkSource, 'record' | 'withMemory'>,
  { owner, environment, targetState }: Pick<ForkRequest, 'owner' | 'environment' | 'targetState'>,
): Environment {
  const secrets = inheritedSecrets(record, owner, withMemory && targetState !== 'Stopped')
  return changedEnvironment(sealer, { env: record.env, secrets }, environment, owner)
}

/** What the fork will hold, before anything is made; its processors and memory are not needed where it only lies there. */
function reserveForFork(
  context: InstanceContext,
  id: string,
  { record, withMemory }: Pick<ForkSource, 'record' | 'withMemory'>,
  { name, targetState }: Pick<ForkRequest, 'name' | 'targetState'>,
): Disposable {
  checkCopy(context, record)
  const runs = targetState === 'Running' || (targetState === 'Standby' && !withMemory)
  return reserveFor(context, { ...record, id, name }, runs)
}

/** Forks whose directories are made at the same time: of fifty at once the first are loaded while the others' are made, not after all. */
const stagings = new Turns(LOADS_AT_ONCE, LONG_LOAD_MS)

/** The caller holds the name under the id, has claimed the source's volumes, and holds what the fork takes of the host. */
async function makeFork(context: InstanceContext, id: string, source: ForkSource, request: ForkRequest): Promise<InstanceEntry> {
  using _lock = await holdInstance(context, { id, record: request })
  using flow = flowOn(context, id, 'instance.fork', {
    about: { sourceId: source.record.id, ...(source.snapshotId === null ? {} : { snapshotId: source.snapshotId }) },
  })
  const withMemory = source.withMemory && request.targetState !== 'Stopped'
  const prepared = await source.prepare?.(flow)

  await using undo = new AsyncDisposableStack()
  using turn = await stagings.take(flow.signal)
  const { check, spare } = source
  const checked = (): Promise<unknown>[] => (check === undefined ? [] : [step(flow, 'check', check)])
  const staged = spare?.staged ?? (await step(flow, 'stage', async () => undo.use(await stageInstance(context, id))))
  if (spare === undefined) {
    const from = { payload: source.payload, hypervisor: source.record.hypervisor, withMemory }
    const made = fillFromPayload(context, flow, from, request.hypervisor, staged.path)
    // The check runs while the disk makes links; what it finds explains why they could not be made, too.
    await together([...checked(), made])
  } else await together(checked())
  const asleep = withMemory && request.targetState === 'Standby'
  const savedMemory = asleep ? await sealMemory(context, request, staged.path) : null
  const forked = forkRecord(context, source, request, id, withMemory)
  const standbyCompression = asleep ? standbyCompressionOf(forked.snapshotPolicy, context.settings.compression, {}, Date.now()) : null
  const record = { ...forked, savedMemory, standbyCompression }
  await stageRecord(path.join(staged.path, instanceFiles.record), record)
  const entry = new InstanceEntry(record, withMemory)
  undo.defer(() => removeCommitted(context, entry))
  await step(flow, 'commit', () => staged.commit(context.layout.instance(id)))
  spare?.machine.moved?.(context.layout.instance(id))
  turn[Symbol.dispose]()
  context.store.add(entry)
  if (prepared !== undefined) flow.onStep(prepared)
  if (spare !== undefined) flow.onStep({ flow: flow.flow, step: 'loaded-ahead', ms: 0, note: 'the VMM had loaded the memory already' })
  await reachState(context, entry, request.targetState, flow, spare?.machine)
  undo.move()
  return entry
}

async function stageInstance(context: InstanceContext, id: string): Promise<StagedDirectory> {
  const made = await createStaged(context.layout, `instance-${id}`)
  await mkdir(path.join(made.path, instanceFiles.logs))
  return made
}

/** From a committed Stopped or Standby directory to the state asked for; returns when the agent has answered, if that is Running. The caller holds the lock. */
export async function reachState(
  context: InstanceContext,
  entry: InstanceEntry,
  target: TargetState,
  flow: FlowContext,
  loaded?: Machine,
): Promise<void> {
  if (target === 'Stopped' || (target === 'Standby' && entry.holdsMemory)) return
  if (entry.holdsMemory) return resumeInstance(context, entry, flow, { loaded })
  await bootInstance(context, entry, flow, 'await')
  if (target === 'Standby') await suspendInstance(context, entry)
}

/** What a fork is when its directory is there. */
const phaseOfTarget = { Running: 'created', Standby: 'standby', Stopped: 'stopped' } as const satisfies Record<TargetState, string>

function forkRecord(context: InstanceContext, source: ForkSource, request: ForkRequest, id: string, withMemory: boolean): InstanceRecord {
  const { record } = source
  return {
    ...record,
    ...environmentOfFork(context, source, request),
    owner: request.owner,
    environmentDue: withMemory && (isGiven(request.environment) || record.environmentDue),
    id,
    name: request.name,
    createdAt: new Date().toISOString(),
    hypervisor: request.hypervisor,
    network: record.network === null ? null : forkedNetwork(driverOf(context, request), record.network, source.spare?.mac),
    machineId: newMachineId(),
    identityDue: withMemory ? 'fork' : null,
    unsafeFork: null,
    balloon: withMemory ? record.balloon : null,
    expiresAt: null,
    forkedFrom: { snapshotId: source.snapshotId, instanceId: record.id },
    process: null,
    startedAt: withMemory ? record.startedAt : null,
    stamp: request.hypervisor === record.hypervisor ? record.stamp : null,
    stoppedAt: null,
    programStartedAt: withMemory ? record.programStartedAt : null,
    agentReadyAt: withMemory ? record.agentReadyAt : null,
    runningSince: null,
    restarts: noRestarts,
    phases: firstPhase(phaseOfTarget[request.targetState]),
    exit: null,
    standbyCompression: null,
    restoring: null,
  }
}

export interface ForkInstance extends Pick<ForkRequest, 'name' | 'owner' | 'environment'> {
  readonly fromRunning: boolean
  /** By default the source's own state. */
  readonly targetState: TargetState | undefined
  /** By default the source's own hypervisor; another one for a Stopped source alone. */
  readonly targetHypervisor: HypervisorName | undefined
}

/** `POST /instances/{id}/fork`: a payload of the source is made in the staging area, forked and dropped. */
export async function forkInstance(context: InstanceContext, entry: InstanceEntry, request: ForkInstance): Promise<InstanceEntry> {
  const id = newId()
  const hypervisor = request.targetHypervisor ?? entry.record.hypervisor
  if (request.targetHypervisor !== undefined) await demandFit(context, driverOf(context, { hypervisor }), entry.record)
  // Before the source is frozen: a fork that can't be shall not make it stand still.
  using _name = context.store.reserveName(request.name, id)
  await using payload = await createStaged(context.layout, `payload-${newId()}`)
  using share = new DisposableStack()
  using frozen = await freezeForFork(context, entry, request, payload.path, (from, stateNow) => {
    const wanted = { ...request, targetState: request.targetState ?? stateNow }
    environmentOfFork(context, from, wanted)
    share.use(reserveForFork(context, id, from, wanted))
  })
  const { source, state } = frozen
  return await makeFork(context, id, source, {
    ...{ name: request.name, owner: request.owner, environment: request.environment },
    targetState: request.targetState ?? state,
    hypervisor,
  })
}

/** Disposing gives up what keeps the volumes of the frozen guest as they are. */
async function freezeForFork(
  context: InstanceContext,
  entry: InstanceEntry,
  request: ForkInstance,
  payload: string,
  reserve: (source: Pick<ForkSource, 'record' | 'withMemory'>, state: TargetState) => void,
): Promise<{ readonly source: ForkSource; readonly state: TargetState } & Disposable> {
  using _lock = await lockInstance(context, entry)
  const state = await permit(entry, 'fork')
  const { record } = entry
  forbidWritableVolumes(record, 'a fork')
  using claims = new DisposableStack()
  claims.use(await claimVolumes(context, record.volumes))
  if (state === 'Running' && !request.fromRunning)
    throw new HypemanError(
      'invalid_state',
      `${record.name} is Running; send from_running: true (hypeman fork --from-running) to fork it as it runs, or stop it first`,
    )
  if (request.targetHypervisor !== undefined && state !== 'Stopped')
    throw new HypemanError(
      'invalid_request',
      `target_hypervisor: ${record.name} is ${state}, and its memory runs on ${record.hypervisor} only; stop it first, or leave the field out`,
    )
  reserve({ record, withMemory: state !== 'Stopped' }, state)
  using flow = flowOn(context, entry.id, 'instance.freeze')
  if (state === 'Running') {
    await step(flow, 'prove-agent', () => proveAgent(context, entry, flow.signal))
    await captureMemory(context, entry, flow, payload)
  } else {
    if (state === 'Standby') await demandMemory(context, entry, flow)
    await step(flow, 'share', () => driverOf(context, record).share(context.layout.instance(entry.id), payload, state === 'Standby'))
  }
  const kept = claims.move()
  return {
    source: { payload, withMemory: state !== 'Stopped', record, snapshotId: null },
    state,
    [Symbol.dispose]: () => kept.dispose(),
  }
}
