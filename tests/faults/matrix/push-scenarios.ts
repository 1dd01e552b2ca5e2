// An image on its way from the server to another registry.

import assert from 'node:assert/strict'
import type { Hypeman } from '@onkernel/hypeman'
import { run } from '../../support/command.ts'
import { until } from '../../support/until.ts'
import type { Scenario } from './scenario.ts'
import { importImage, imported, registryHost } from './store-scenarios.ts'
import { LateFailure, type World } from './world.ts'

/** Of the attempt under way: each has a target of its own, where nothing is yet. */
let target = ''
let attempts = 0

async function pushOf(world: World): Promise<Hypeman.Push | undefined> {
  return (await world.client.pushes.list()).find((push) => push.target === target)
}

/** The push when it has ended; nothing if there is none. */
async function endOf(world: World): Promise<Hypeman.Push | undefined> {
  let push: Hypeman.Push | undefined
  await until('the push has ended', async () => {
    push = await pushOf(world)
    return push === undefined || push.status === 'pushed' || push.status === 'failed'
  })
  return push
}

async function digestAtTarget(): Promise<string | undefined> {
  const { code, stdout } = await run('skopeo', ['inspect', '--tls-verify=false', '--format', '{{.Digest}}', `docker://${target}`])
  return code === 0 ? stdout.trim() : undefined
}

export const pushElsewhere: Scenario = {
  name: 'push an image to another registry',
  async prepare(world) {
    if ((await importImage.judge(world)) !== 'done') await importImage.act(world)
    target = `${await registryHost()}/sent/${(attempts += 1)}:1`
  },
  async act(world) {
    await world.client.pushes.create({ image: imported, target })
    const push = await endOf(world)
    if (push?.status !== 'pushed') throw new LateFailure(`the push failed: ${push?.error ?? 'it is gone'}`)
    await world.faults.reached('push.end/record')
  },
  async judge(world) {
    const push = await endOf(world)
    if (push === undefined) {
      assert.equal(await digestAtTarget(), undefined)
      return 'as before'
    }
    if (push.status === 'failed') {
      assert.ok(push.error)
      return 'failed'
    }
    assert.equal(await digestAtTarget(), push.digest)
    return 'done'
  },
  clean: (world) => importImage.clean(world),
  late: ['failed'],
}
