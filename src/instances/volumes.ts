// Rules of volumes at an instance: paths that may be mounted on, one writer or many readers, and what forbids a snapshot or fork.

import path from 'node:path'
import { HypemanError } from '../api/errors.ts'
import type { InstanceContext } from './context.ts'
import type { InstanceRecord } from './record.ts'

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

/**
 * Checks the volumes of a new instance, and keeps others from attaching them until the result is disposed of: by then the instance
 * is in the index. Readers don't wait for each other.
 */
export async function claimVolumes(context: InstanceContext, volumes: InstanceRecord['volumes']): Promise<Disposable> {
  using claims = new DisposableStack()
  // Always in the same order, so that no two wait for each other.
  for (const { volumeId, readOnly } of volumes.toSorted((one, other) => one.volumeId.localeCompare(other.volumeId)))
    claims.use(
      await context.locks.acquire(`volume/${volumeId}`, {
        waitMs: context.settings.lockWaitMs,
        what: `volume ${volumeId}`,
        shared: readOnly,
      }),
    )
  for (const { volumeId } of volumes) claims.use(context.volumes.hold(volumeId))
  checkVolumes(context, volumes)
  return claims.move()
}

/** Checks the volumes of a new instance against each other and against those of all others. */
export function checkVolumes(context: InstanceContext, volumes: InstanceRecord['volumes']): void {
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
    checkSharing(context, volume)
  }
}

/** The path without `.`, `..`, doubled and trailing slashes: the one spelling that is checked and kept. */
export function plainPath(mountPath: string): string {
  return path.posix.normalize(mountPath).replace(/(.)\/$/, '$1')
}

function checkSharing(context: InstanceContext, wanted: InstanceRecord['volumes'][number]): void {
  context.volumes.imagePath(wanted.volumeId)
  for (const { record } of context.store.entries()) {
    const held = record.volumes.find((volume) => volume.volumeId === wanted.volumeId)
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
    `${what} is not possible while ${record.name} writes to the volume ${writable.volumeId} (${writable.mountPath}); attach it with readonly`,
  )
}
