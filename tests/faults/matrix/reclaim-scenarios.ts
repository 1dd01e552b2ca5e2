// Flows that take memory back from running instances.

import assert from 'node:assert/strict'
import type { Instance } from '@onkernel/hypeman/resources/instances/instances.js'
import { clean, content, judgeState, onDisk, subject } from './instance-scenarios.ts'
import type { Scenario } from './scenario.ts'
import { Refused, type World } from './world.ts'

const reclaimed = 128 * 1024 ** 2

async function reclaim(world: World, bytes: number): Promise<void> {
  const { actions } = await world.client.resources.reclaimMemory({ reclaim_bytes: bytes })
  const failed = actions.find(({ status }) => status === 'error')
  if (failed === undefined) return
  // The answer is of all guests, and of each it has the words alone.
  const words = failed.error ?? 'no reason given'
  throw new Refused(/no space left/i.test(words) ? 'storage_full' : /EIO/.test(words) ? 'storage_unsuitable' : 'conflict', words)
}

/** What is asked of the subject: undefined for nothing. */
async function askedOf(world: World): Promise<number | undefined> {
  const seen: Instance & { readonly memory_reclaim?: { readonly asked_bytes: number } } = await world.client.instances.get(subject)
  return seen.memory_reclaim?.asked_bytes
}

/** Takes memory from the subject, or gives it back; `before` is what was asked of it then. */
function reclaiming(name: string, before: number, bytes: number): Scenario {
  return {
    name,
    async prepare(world) {
      if ((await world.stateOf(subject)) === 'absent')
        await world.client.instances.create({ ...world.guests.body, name: subject, size: '512MB' })
      await world.wake(subject)
      await world.guests.write(world.server, subject, content)
      await reclaim(world, before)
    },
    act: (world) => reclaim(world, bytes),
    async judge(world) {
      const state = await world.stateOf(subject)
      if (state === 'Stopped') return judgeState(world, subject, { Stopped: [bytes === 0 ? 'done, then stopped' : 'stopped', onDisk] })
      const asked = (await askedOf(world)) ?? 0
      assert.ok(asked === before || asked === bytes, `${asked} bytes are asked for`)
      return judgeState(world, subject, { Running: [asked === bytes ? 'done' : 'as before', content] })
    },
    async clean(world) {
      await reclaim(world, 0)
      await clean(world)
    },
    refused: ['done'],
    crashed: ['done'],
    vmm: ['stopped', 'done, then stopped'],
  }
}

export const takeMemory = reclaiming('take memory back from a running instance', 0, reclaimed)
export const giveMemory = reclaiming('give memory back to a running instance', reclaimed, 0)
