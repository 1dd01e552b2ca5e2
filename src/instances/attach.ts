// Flows: a volume is attached to, or detached from, an instance that was made before. Only a stopped one: the next boot finds the new devices.

import { HypemanError } from '../api/errors.ts'
import type { AddedParts } from '../hypervisors/driver.ts'
import { step } from '../platform/flow.ts'
import { reserveFor } from './capacity.ts'
import { flowOn, lockInstance, type InstanceContext } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import { driverOf } from './machine.ts'
import { permit } from './permission.ts'
import { layerSizesOf, withLayers, type WantedVolume } from './overlays.ts'
import { checkMounts, checkRoom, claimVolumes } from './volumes.ts'

export async function attachVolume(context: InstanceContext, entry: InstanceEntry, wanted: WantedVolume): Promise<void> {
  using _lock = await lockInstance(context, entry)
  await permit(entry, 'attachVolume')
  const { record } = entry
  const present = record.volumes.find(({ volumeId }) => volumeId === wanted.volumeId)
  if (present !== undefined)
    throw new HypemanError(
      'conflict',
      `the volume ${wanted.volumeId} is attached to ${record.name} already, at ${present.mountPath}; detach it first to attach it in another way`,
    )
  const driver = driverOf(context, record)
  checkRoom(driver, [...record.volumes, wanted])
  checkMounts([...record.volumes, wanted])
  using _volume = await claimVolumes(context, [wanted])
  using _share = reserveFor(context, { ...record, volumes: [...record.volumes, wanted] }, false)
  using flow = flowOn(context, entry.id, 'instance.attach-volume', { about: { volumeId: wanted.volumeId } })
  let added: AddedParts | undefined
  await using undo = new AsyncDisposableStack()
  undo.defer(async () => {
    // A record may not name a part that is not there, so that it goes first.
    if (entry.record !== record) await context.store.update(entry, { volumes: record.volumes })
    await added?.[Symbol.asyncDispose]()
  })
  const sizes = layerSizesOf([wanted])
  if (sizes.length > 0)
    await step(flow, 'layer', async () => {
      added = await driver.addDiskParts(context.layout.instance(entry.id), sizes)
    })
  const attached = withLayers([wanted], added?.parts ?? [])
  await step(flow, 'record', () => context.store.update(entry, { volumes: [...record.volumes, ...attached] }))
  undo.move()
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
