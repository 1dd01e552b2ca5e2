// Flows: a volume is attached to, or detached from, an instance that was made before. Only a stopped one: the next boot finds the new devices.

import { HypemanError } from '../api/errors.ts'
import { step } from '../platform/flow.ts'
import { flowOn, lockInstance, type InstanceContext } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import { driverOf } from './machine.ts'
import { permit } from './permission.ts'
import type { InstanceRecord } from './record.ts'
import { checkMounts, checkRoom, claimVolumes } from './volumes.ts'

type AttachedVolume = InstanceRecord['volumes'][number]

export async function attachVolume(context: InstanceContext, entry: InstanceEntry, wanted: AttachedVolume): Promise<void> {
  using _lock = await lockInstance(context, entry)
  await permit(entry, 'attachVolume')
  const { record } = entry
  const present = record.volumes.find(({ volumeId }) => volumeId === wanted.volumeId)
  if (present !== undefined)
    throw new HypemanError(
      'conflict',
      `the volume ${wanted.volumeId} is attached to ${record.name} already, at ${present.mountPath}; detach it first to attach it in another way`,
    )
  const volumes = [...record.volumes, wanted]
  checkRoom(driverOf(context, record), volumes)
  checkMounts(volumes)
  using _volume = await claimVolumes(context, [wanted])
  using flow = flowOn(context, entry.id, 'instance.attach-volume', { about: { volumeId: wanted.volumeId } })
  await step(flow, 'record', () => context.store.update(entry, { volumes }))
}

/** `ref` is an id or a name; the id is enough for a volume that can't be read any more. */
export async function detachVolume(context: InstanceContext, entry: InstanceEntry, ref: string): Promise<void> {
  using _lock = await lockInstance(context, entry)
  await permit(entry, 'detachVolume')
  const { record } = entry
  const isAttached = (id: string): boolean => record.volumes.some(({ volumeId }) => volumeId === id)
  const id = isAttached(ref) ? ref : context.volumes.resolve(ref)
  if (!isAttached(id))
    throw new HypemanError(
      'not_found',
      `the volume ${ref} is not attached to ${record.name}; hypeman volume list shows what is attached where`,
    )
  using flow = flowOn(context, entry.id, 'instance.detach-volume', { about: { volumeId: id } })
  const volumes = record.volumes.filter(({ volumeId }) => volumeId !== id)
  await step(flow, 'record', () => context.store.update(entry, { volumes }))
}
