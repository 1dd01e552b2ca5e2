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

/** Checks the volumes of a new instance against each other and against those of all others. */
export function checkVolumes(context: InstanceContext, volumes: InstanceRecord['volumes']): void {
  const paths = new Set<string>()
  for (const volume of volumes) {
    const mountPath = path.posix.normalize(volume.mountPath).replace(/(.)\/$/, '$1')
    if (!path.posix.isAbsolute(mountPath))
      throw new HypemanError('invalid_request', `volumes: the mount path ${volume.mountPath} is not absolute`)
    if (mountPath === '/' || systemDirectories.some((system) => mountPath === system || mountPath.startsWith(`${system}/`)))
      throw new HypemanError(
        'invalid_request',
        `volumes: ${volume.mountPath} is or lies in a system directory; mount somewhere else, for example /data`,
      )
    if (paths.has(mountPath)) throw new HypemanError('invalid_request', `volumes: ${volume.mountPath} is named twice`)
    paths.add(mountPath)
    checkSharing(context, volume)
  }
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
