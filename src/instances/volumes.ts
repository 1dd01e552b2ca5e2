// Rules of volumes at an instance: paths that may be mounted on, one writer or many readers, and what forbids a snapshot or fork.

import path from 'node:path'
import { HypemanError } from '../api/errors.ts'
import type { Hypervisor } from '../hypervisors/driver.ts'
import type { VolumeAttachment } from '../volumes/types.ts'
import type { InstanceContext } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import type { InstanceRecord } from './record.ts'
import type { InstanceStore } from './store.ts'

/** Directories of the system that no volume may cover or lie in. */
const systemDirectories = [
  '/bin',
  '/boot',
  '/dev',
  '/etc',
  '/lib',
  '/lib64',
  '/proc',
  '/root',
  '/run',
  '/sbin',
  '/sys',
  '/tmp',
  '/usr',
  '/var',
]

type VolumeUse = Omit<InstanceRecord['volumes'][number], 'overlay'>

/**
 * Checks volumes that an instance shall have, and keeps others from attaching them until the result is disposed of: by then the index says that they are
 * attached. Readers don't wait for each other. An instance that is there already keeps what it has until then, too: the flow may have to give that back.
 */
export async function claimVolumes(context: InstanceContext, volumes: readonly VolumeUse[], instance?: InstanceEntry): Promise<Disposable> {
  using claims = new DisposableStack()
  const present = instance?.record.volumes ?? []
  // Always in the same order, so that no two wait for each other.
  for (const [volumeId, readOnly] of sharingOf([...volumes, ...present]).toSorted(([one], [other]) => one.localeCompare(other)))
    claims.use(
      await context.locks.acquire(`volume/${volumeId}`, {
        waitMs: context.settings.lockWaitMs,
        what: `volume ${volumeId}`,
        shared: readOnly,
      }),
    )
  for (const { volumeId } of volumes) claims.use(context.volumes.hold(volumeId))
  for (const { volumeId } of present) if (context.volumes.isThere(volumeId)) claims.use(context.volumes.hold(volumeId))
  for (const volume of volumes) checkSharing(context, volume, instance)
  return claims.move()
}

/** Each volume once, with whether all that name it only read it. */
function sharingOf(volumes: readonly VolumeUse[]): readonly (readonly [volumeId: string, readOnly: boolean])[] {
  const shared = new Map<string, boolean>()
  for (const { volumeId, readOnly } of volumes) shared.set(volumeId, readOnly && shared.get(volumeId) !== false)
  return [...shared]
}

/** `invalid_request` for more volumes than the machine has room for. */
export function checkRoom({ name, maxVolumes }: Hypervisor, volumes: readonly VolumeUse[]): void {
  if (volumes.length > maxVolumes)
    throw new HypemanError('invalid_request', `${name} takes at most ${maxVolumes} volumes, ${volumes.length} were asked for`)
}

/** Checks all volumes of an instance against each other: where they are mounted, and that none is there twice. */
export function checkMounts(volumes: readonly VolumeUse[]): void {
  const [paths, ids] = [new Set<string>(), new Set<string>()]
  for (const volume of volumes) {
    const mountPath = plainPath(volume.mountPath)
    if (!path.posix.isAbsolute(mountPath))
      throw new HypemanError('invalid_request', `volumes: the mount path ${volume.mountPath} is not absolute`)
    if (mountPath === '/' || systemDirectories.some((system) => mountPath === system || mountPath.startsWith(`${system}/`)))
      throw new HypemanError(
        'invalid_request',
        `volumes: ${volume.mountPath} is or lies in a system directory; mount somewhere else, for example /data`,
      )
    if (paths.has(mountPath)) throw new HypemanError('invalid_request', `volumes: ${volume.mountPath} is named twice`)
    if (ids.has(volume.volumeId)) throw new HypemanError('invalid_request', `volumes: ${volume.volumeId} is attached twice; mount it once`)
    paths.add(mountPath)
    ids.add(volume.volumeId)
  }
}

/** The path without `.`, `..`, doubled and trailing slashes: the one spelling that is checked and kept. */
export function plainPath(mountPath: string): string {
  return path.posix.normalize(mountPath).replace(/(.)\/$/, '$1')
}

/** `conflict` if others than the instance use the volume in a way that does not go with the one wanted. */
export function checkSharing(context: InstanceContext, wanted: VolumeUse, instance?: InstanceEntry): void {
  context.volumes.imagePath(wanted.volumeId)
  // What a snapshot's memory knows of a volume, and what lies over it, hold only as long as it does not change.
  const [snapshot] = wanted.readOnly ? [] : context.volumes.snapshotsUsing(wanted.volumeId)
  if (snapshot !== undefined)
    throw new HypemanError(
      'conflict',
      `the volume ${wanted.volumeId} is read by what a snapshot holds (${snapshot}), so that nobody may write to it; attach it with readonly, or delete the snapshot first`,
    )
  for (const entry of context.store.entries()) {
    const { record } = entry
    const held = entry === instance ? undefined : record.volumes.find((volume) => volume.volumeId === wanted.volumeId)
    if (held === undefined || (held.readOnly && wanted.readOnly)) continue
    throw new HypemanError(
      'conflict',
      `the volume ${wanted.volumeId} is attached to the instance ${record.name}${held.readOnly ? '' : ' for writing'}; a volume has one writer or many readers (readonly)`,
    )
  }
}

/** `not_supported` if the instance writes to a volume: two copies of it would write to one disk. */
export function forbidWritableVolumes(record: Pick<InstanceRecord, 'name' | 'volumes'>, what: string): void {
  const writable = record.volumes.find((volume) => !volume.readOnly)
  if (writable === undefined) return
  throw new HypemanError(
    'not_supported',
    `${what} is not possible while ${record.name} writes to the volume ${writable.volumeId} (${writable.mountPath}); attach it with readonly, and with overlay if the guest has to write`,
  )
}

/** The instances that attach a volume, with where. */
export function attachmentsOf(store: Pick<InstanceStore, 'entries'>, volumeId: string): VolumeAttachment[] {
  return [...store.entries()].flatMap(({ record }) =>
    record.volumes
      .filter((volume) => volume.volumeId === volumeId)
      .map(({ mountPath, readOnly }) => ({ instanceId: record.id, mountPath, readOnly })),
  )
}
