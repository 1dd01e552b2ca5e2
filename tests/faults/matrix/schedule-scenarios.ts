// Flows of snapshot schedules. A run that was broken is followed by another one within seconds, so that what is judged is what that one leaves.

import assert from 'node:assert/strict'
import { NotFoundError } from '@onkernel/hypeman'
import type { SnapshotSchedule } from '@onkernel/hypeman/resources/instances'
import { until } from '../../support/until.ts'
import type { Scenario } from './scenario.ts'
import { LateFailure, type World } from './world.ts'

const subject = 'subject'
const content = { memory: 'm', disk: 'd' } as const
const daily = { interval: '24h', retention: { max_count: 1 } } as const
const often = { ...daily, interval: '1s' } as const

async function scheduleOf(world: World): Promise<SnapshotSchedule | undefined> {
  try {
    return await world.client.instances.snapshotSchedule.get(subject)
  } catch (error) {
    if (error instanceof NotFoundError) return undefined
    throw error
  }
}

/** With the end of a run that is under way. */
async function removeSchedule(world: World): Promise<void> {
  if ((await scheduleOf(world)) !== undefined) await world.client.instances.snapshotSchedule.delete(subject)
}

async function scheduledIds(world: World): Promise<string[]> {
  return (await world.client.snapshots.list({ tags: { 'hypeman.scheduled': 'true' } })).map(({ id }) => id)
}

async function clean(world: World): Promise<void> {
  await removeSchedule(world)
  for (const id of await scheduledIds(world)) await world.client.snapshots.delete(id)
  await world.remove(subject, 'probe')
}

export const setSchedule: Scenario = {
  name: 'set a snapshot schedule',
  async prepare(world) {
    await world.ensure(subject, 'Stopped', content)
    await removeSchedule(world)
  },
  act: async (world) => void (await world.client.instances.snapshotSchedule.update(subject, daily)),
  judge: async (world) => ((await scheduleOf(world)) === undefined ? 'as before' : 'done'),
  clean,
  frozen: [subject],
}

export const deleteSchedule: Scenario = {
  name: 'delete a snapshot schedule',
  async prepare(world) {
    await world.ensure(subject, 'Stopped', content)
    await world.client.instances.snapshotSchedule.update(subject, daily)
  },
  act: (world) => world.client.instances.snapshotSchedule.delete(subject),
  judge: async (world) => ((await scheduleOf(world)) === undefined ? 'done' : 'as before'),
  clean,
  frozen: [subject],
}

/** The snapshot that a run replaces. */
let earlier: string | undefined

/** Resolves when a run is over: it has done all that it should, or says why not. */
async function run(world: World, isOver: (schedule: SnapshotSchedule, ids: readonly string[]) => boolean): Promise<SnapshotSchedule> {
  let schedule: SnapshotSchedule | undefined
  await until('the schedule has run', async () => {
    schedule = await scheduleOf(world)
    return schedule !== undefined && isOver(schedule, await scheduledIds(world))
  })
  return schedule ?? assert.fail('it was there')
}

const isDone = ({ last_snapshot_id: last, last_error: error }: SnapshotSchedule, ids: readonly string[]): boolean =>
  error === undefined && ids.length === 1 && ids[0] === last

export const runSchedule: Scenario = {
  name: 'run a snapshot schedule',
  async prepare(world) {
    if ((await world.stateOf(subject)) !== 'Stopped') await world.ensure(subject, 'Stopped', content)
    await removeSchedule(world)
    if ((await scheduledIds(world)).length !== 1) {
      await world.client.instances.snapshotSchedule.update(subject, often)
      await run(world, isDone)
      await removeSchedule(world)
    }
    ;[earlier] = await scheduledIds(world)
  },
  async act(world) {
    await world.client.instances.snapshotSchedule.update(subject, often)
    const { last_error: error } = await run(world, (schedule, ids) => schedule.last_error !== undefined || isDone(schedule, ids))
    if (error !== undefined) throw new LateFailure(`the run failed: ${error}`)
    await world.client.instances.snapshotSchedule.delete(subject)
  },
  async judge(world) {
    if ((await scheduleOf(world)) !== undefined) await run(world, isDone)
    await removeSchedule(world)
    const [id, ...others] = await scheduledIds(world)
    assert.deepEqual(others, [], 'one is kept')
    assert.deepEqual(await world.forkedContent(id ?? assert.fail('the last good one is gone')), { memory: '', disk: content.disk })
    return id === earlier ? 'as before' : 'done'
  },
  clean,
  refused: ['done'],
  late: ['done'],
}
