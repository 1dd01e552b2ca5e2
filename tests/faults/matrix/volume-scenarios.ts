// Flows of the volumes of an instance that was made before. Where a flow leaves an instance, it can be started, and the volume shows what the instance does.

import assert from 'node:assert/strict'
import type { Scenario, Verdict } from './scenario.ts'
import type { World } from './world.ts'

const subject = 'subject'
const content = { memory: 'm', disk: 'd' } as const
const onDisk = { memory: '', disk: 'd' } as const
const attachable = 'attachable'

async function isAttached(world: World): Promise<boolean> {
  return ((await world.client.instances.get(subject)).volumes ?? []).length > 0
}

async function prepare(world: World): Promise<void> {
  if ((await world.stateOf(subject)) === 'absent') await world.ensure(subject, 'Stopped', content)
  if ((await world.stateOf(subject)) !== 'Stopped') await world.client.instances.stop(subject)
  const volumes = await world.client.volumes.list()
  if (!volumes.some(({ name }) => name === attachable)) await world.client.volumes.create({ name: attachable, size_gb: 1 })
}

/** Which it is, after a look that both sides say the same and that the instance starts with its content. */
async function judge(world: World, attached: Verdict, detached: Verdict): Promise<Verdict> {
  const { id } = await world.client.instances.get(subject)
  const verdict = (await isAttached(world)) ? attached : detached
  const seen = ((await world.client.volumes.get(attachable)).attachments ?? []).map((one) => one.instance_id)
  assert.deepEqual(seen, verdict === attached ? [id] : [])
  assert.deepEqual(await world.wake(subject), onDisk)
  return verdict
}

async function clean(world: World): Promise<void> {
  await world.remove(subject)
  for (const { id, name } of await world.client.volumes.list()) if (name === attachable) await world.client.volumes.delete(id)
}

export const attachVolume: Scenario = {
  name: 'attach a volume',
  async prepare(world) {
    await prepare(world)
    if (await isAttached(world)) await world.client.instances.volumes.detach(attachable, { id: subject })
  },
  act: async (world) => void (await world.client.instances.volumes.attach(attachable, { id: subject, mount_path: '/mnt/data' })),
  judge: (world) => judge(world, 'done', 'as before'),
  clean,
  frozen: [subject],
}

/** Its layer is on the disk before the instance names it: one that is left over by a crash is in nobody's way. */
export const attachLayered: Scenario = {
  ...attachVolume,
  name: 'attach a volume below a layer',
  async act(world) {
    // Fields that the client knows of a volume at creation alone.
    const layer = { readonly: true, overlay: true, overlay_size: '64MB' }
    await world.client.instances.volumes.attach(attachable, { id: subject, mount_path: '/mnt/data', ...layer })
  },
  frozen: [],
}

export const detachVolume: Scenario = {
  name: 'detach a volume',
  async prepare(world) {
    await prepare(world)
    if (!(await isAttached(world))) await world.client.instances.volumes.attach(attachable, { id: subject, mount_path: '/mnt/data' })
  },
  act: async (world) => void (await world.client.instances.volumes.detach(attachable, { id: subject })),
  judge: (world) => judge(world, 'as before', 'done'),
  clean,
  frozen: [subject],
}
