// Flows that give an instance another size. What it is shown with is what it has: one that runs goes to standby and back, which is refused where its record and its machine differ.

import assert from 'node:assert/strict'
import { clean, content, judgeState, onDisk, subject } from './instance-scenarios.ts'
import type { Scenario, Verdict } from './scenario.ts'
import type { World } from './world.ts'

/** Fields of an update that the official client does not know. */
interface Size {
  readonly size?: string
  readonly vcpus?: number
  readonly overlay_size?: string
}

async function seen(world: World): Promise<Size> {
  const { size = '', vcpus = 0, overlay_size: disk = '' } = await world.client.instances.get(subject)
  return { size, vcpus, overlay_size: disk }
}

/** An instance of the size of all others is given one, in parts or whole. */
function resizing(name: string, state: 'Running' | 'Stopped', wanted: Size, shown: Size): Scenario {
  const before = { size: '64.0 MB', vcpus: 1, overlay_size: '16.0 MB' }
  return {
    name,
    async prepare(world) {
      await world.remove(subject)
      await world.ensure(subject, state, content, { hotplug_size: '256MB' })
      assert.deepEqual(await seen(world), before)
    },
    act: async (world) => void (await world.client.instances.update(subject, wanted as object)),
    async judge(world) {
      const now = await seen(world)
      const isDone = now.size !== before.size || now.vcpus !== before.vcpus || now.overlay_size !== before.overlay_size
      assert.deepEqual(now, isDone ? { ...before, ...shown } : before)
      const verdict: Verdict = isDone ? 'done' : 'as before'
      if (state === 'Stopped') return await judgeState(world, subject, { Stopped: [verdict, onDisk] })
      if ((await world.stateOf(subject)) === 'Running') await world.client.instances.standby(subject)
      return await judgeState(world, subject, { Standby: [verdict, content], Stopped: [isDone ? 'done, then stopped' : 'stopped', onDisk] })
    },
    clean,
  }
}

export const resizeStopped = resizing(
  'give a stopped instance another size',
  'Stopped',
  { size: '128MB', vcpus: 2, overlay_size: '32MB' },
  { size: '128.0 MB', vcpus: 2, overlay_size: '32.0 MB' },
)

const whileItRuns: Partial<Scenario> = {
  // What the machine has been given is not taken from it, whatever fails afterwards.
  refused: ['done'],
  broken: ['done'],
  vmm: ['stopped', 'done, then stopped'],
}

export const growMachine: Scenario = {
  ...resizing('give a machine that runs more', 'Running', { size: '192MB', vcpus: 2 }, { size: '192.0 MB', vcpus: 2 }),
  ...whileItRuns,
}

export const growDisk: Scenario = {
  ...resizing('make the disk of a machine that runs longer', 'Running', { overlay_size: '32MB' }, { overlay_size: '32.0 MB' }),
  ...whileItRuns,
}
