// Flows of snapshots. The subject's snapshot holds one content, and the subject another by the time that something happens to it.

import assert from 'node:assert/strict'
import type { Snapshot } from '@onkernel/hypeman/resources/snapshots.js'
import { until } from '../../support/until.ts'
import { judgeState } from './instance-scenarios.ts'
import type { Scenario, Verdict } from './scenario.ts'
import { LateFailure, type Kind, type State, type World } from './world.ts'

const content = { memory: 'm', disk: 'd' } as const
const later = { memory: 'later-m', disk: 'later-d' } as const
const subject = 'subject'
const fresh = 'new'
const shot = 'shot'

const withoutMemory = ({ disk }: { readonly disk: string }): { readonly memory: string; readonly disk: string } => ({ memory: '', disk })

async function clean(world: World): Promise<void> {
  await world.removeSnapshot(shot)
  await world.remove(subject, fresh, 'probe')
}

function ensurePlain(kind: Kind): (world: World) => Promise<void> {
  return (world) => world.ensureSnapshot(subject, shot, kind, content)
}

/** Taking one, of an instance in a state. */
function taking(name: string, state: State): Scenario {
  const kind: Kind = state === 'Stopped' ? 'Stopped' : 'Standby'
  const held = kind === 'Stopped' ? withoutMemory(content) : content
  return {
    name,
    async prepare(world) {
      await world.removeSnapshot(shot)
      await world.remove('probe')
      await world.ensure(subject, state, content)
    },
    act: async (world) => void (await world.client.instances.snapshots.create(subject, { kind, name: shot })),
    async judge(world) {
      const made = await world.snapshotOf(shot)
      if (made !== undefined) assert.deepEqual(await world.forkedContent(made), held, 'what the snapshot holds')
      const source = await judgeState(world, subject, {
        [state]: ['as before', held],
        ...(state === 'Running' ? { Stopped: ['stopped', withoutMemory(content)] as const } : {}),
      })
      if (source === 'stopped') return made === undefined ? 'stopped' : 'done, source stopped'
      return made === undefined ? 'as before' : 'done'
    },
    clean,
    ...(state === 'Running' ? { vmm: ['stopped', 'done, source stopped'] as const } : { frozen: [subject] }),
  }
}

export const snapshotRunning = taking('take a snapshot of a running instance', 'Running')
export const snapshotAsleep = taking('take a snapshot of an instance in standby', 'Standby')
export const snapshotStopped = taking('take a snapshot of a stopped instance', 'Stopped')

/** Another hypervisor than that of the subject; on stand-ins one whose disks are of another format. */
const elsewhere = 'qemu-microvm'

/** Restoring one in place, to a state, from an instance in a state. `make` makes it, unless it is there. */
function restoring(name: string, kind: Kind, from: State, to: State, make = ensurePlain(kind), on?: typeof elsewhere): Scenario {
  const present = from === 'Stopped' ? withoutMemory(later) : later
  const restored = kind === 'Stopped' || to === 'Stopped' ? withoutMemory(content) : content
  return {
    name,
    async prepare(world) {
      await make(world)
      await world.ensure(subject, from, later)
    },
    async act(world) {
      const id = (await world.snapshotOf(shot)) ?? assert.fail('the snapshot is gone')
      await world.client.instances.snapshots.restore(id, { id: subject, target_state: to, ...onto(on) })
    },
    async judge(world) {
      assert.ok((await world.snapshotOf(shot)) !== undefined, 'the snapshot is there')
      const state = await world.stateOf(subject)
      const found = await world.wake(subject)
      const isRestored = found.disk === restored.disk
      if (isRestored && to === 'Running' && state === 'Stopped') {
        assert.deepEqual(found, withoutMemory(restored))
        return 'done, then stopped'
      }
      assert.deepEqual(found, isRestored ? restored : present, 'what the instance has')
      assert.equal(state, isRestored ? to : from)
      return isRestored ? 'done' : 'as before'
    },
    clean,
    frozen: [subject],
    vmm: ['done, then stopped'],
  }
}

/** Makes a snapshot whose memory is compressed and lies there in no other form; its source is then stopped. */
async function ensureCompressed(world: World): Promise<void> {
  const id = await world.snapshotOf(shot)
  if (id !== undefined && (await isCompressed(world, id))) return
  await world.removeSnapshot(shot)
  await world.ensure(subject, 'Running', content)
  await takeCompressed(world)
  await world.client.instances.stop(subject)
}

async function takeCompressed(world: World): Promise<void> {
  await world.client.instances.snapshots.create(subject, { kind: 'Standby', name: shot, compression: { enabled: true } })
  const id = (await world.snapshotOf(shot)) ?? assert.fail('the snapshot is gone')
  if (!(await isCompressed(world, id)))
    throw new LateFailure((await world.client.snapshots.get(id)).compression_error ?? 'it is not compressed')
}

/** True for one that is compressed and takes no room besides; waits while it is being compressed. */
async function isCompressed(world: World, id: string): Promise<boolean> {
  await until('it is compressed, or can not be', async () => (await world.client.snapshots.get(id)).compression_state !== 'compressing')
  // What the official client's types do not have, its answers do.
  const snapshot: Snapshot & { readonly compression_note?: string } = await world.client.snapshots.get(id)
  return snapshot.compression_state === 'compressed' && snapshot.compression_note === undefined
}

export const compressSnapshot: Scenario = {
  ...snapshotRunning,
  name: 'take a snapshot and compress it',
  act: takeCompressed,
  async judge(world) {
    const id = await world.snapshotOf(shot)
    if (id === undefined) return await snapshotRunning.judge(world)
    // A server that has just started gives up by itself what lies there in both forms.
    const failed = async (): Promise<boolean> => (await world.client.snapshots.get(id)).compression_state === 'error'
    await until('it is compressed alone, or has failed', async () => (await failed()) || (await isCompressed(world, id)))
    const isDone = !(await failed())
    const verdict = await snapshotRunning.judge(world)
    return isDone ? verdict : 'failed'
  },
  late: ['failed', 'done'],
}

export const restoreToRunning = restoring('restore in place, to running', 'Standby', 'Standby', 'Running')
export const restoreCompressed = restoring(
  'restore a compressed snapshot in place, to running',
  'Standby',
  'Standby',
  'Running',
  ensureCompressed,
)
export const restoreAsleep = restoring('restore in place, to standby', 'Standby', 'Standby', 'Standby')
export const restoreStopped = restoring('restore a snapshot without memory in place, to running', 'Stopped', 'Stopped', 'Running')

export const restoreElsewhere = restoring(
  'restore in place onto another hypervisor',
  'Stopped',
  'Stopped',
  'Stopped',
  ensurePlain('Stopped'),
  elsewhere,
)

function onto(hypervisor: typeof elsewhere | undefined): { readonly target_hypervisor?: typeof elsewhere } {
  return hypervisor === undefined ? {} : { target_hypervisor: hypervisor }
}

/** Forking one. */
function forking(
  name: string,
  kind: Kind,
  to: State,
  settledAs: Partial<Record<State, Verdict>>,
  { make = ensurePlain(kind), on }: { readonly make?: (world: World) => Promise<void>; readonly on?: typeof elsewhere } = {},
): Scenario {
  const expected = kind === 'Stopped' || to === 'Stopped' ? withoutMemory(content) : content
  return {
    name,
    async prepare(world) {
      await world.remove(fresh, 'probe')
      await make(world)
    },
    async act(world) {
      const id = (await world.snapshotOf(shot)) ?? assert.fail('the snapshot is gone')
      await world.client.snapshots.fork(id, { name: fresh, target_state: to, ...onto(on) })
    },
    async judge(world) {
      const state = await world.stateOf(fresh)
      if (state === 'absent') return 'as before'
      const verdict = state === to ? 'done' : (settledAs[state as State] ?? assert.fail(`the fork is ${state}`))
      assert.deepEqual(await world.wake(fresh), expected, 'what the fork has')
      return verdict
    },
    clean,
    crashed: Object.values(settledAs),
  }
}

export const forkToRunning = forking('fork a snapshot', 'Standby', 'Running', { Standby: 'asleep' })
export const forkCompressed = forking('fork a compressed snapshot', 'Standby', 'Running', { Standby: 'asleep' }, { make: ensureCompressed })
export const forkToStopped = forking('fork a snapshot, to stopped', 'Standby', 'Stopped', {})
export const forkCold = forking('fork a snapshot without memory, to running', 'Stopped', 'Running', { Stopped: 'stopped' })
export const forkElsewhere = forking('fork a snapshot onto another hypervisor', 'Stopped', 'Stopped', {}, { on: elsewhere })

export const removeSnapshot: Scenario = {
  name: 'delete a snapshot',
  prepare: (world) => world.ensureSnapshot(subject, shot, 'Standby', content),
  async act(world) {
    const id = (await world.snapshotOf(shot)) ?? assert.fail('the snapshot is gone')
    await world.client.snapshots.delete(id)
  },
  async judge(world) {
    await judgeState(world, subject, { Stopped: ['as before', withoutMemory(content)], Running: ['as before', withoutMemory(content)] })
    const id = await world.snapshotOf(shot)
    if (id === undefined) return 'done'
    assert.deepEqual(await world.forkedContent(id), content, 'what the snapshot holds')
    return 'as before'
  },
  clean,
  refused: ['done'],
}
