// Writable layers over volumes that are only read. Each is a part of the instance's own system disk: it is frozen, forked and deleted with that, and a
// snapshot holds both as of one instant. The guest lays it over the volume (guest/boot/volume.go).

import { HypemanError } from '../api/errors.ts'
import { formatSize } from '../api/units.ts'
import type { DiskPart } from '../hypervisors/driver.ts'
import type { InstanceSettings } from './context.ts'
import type { InstanceRecord } from './record.ts'

type AttachedVolume = InstanceRecord['volumes'][number]

/** A volume that an instance shall have. */
export interface WantedVolume extends Omit<AttachedVolume, 'overlay'> {
  /** Size of the layer, in bytes; null: none. */
  readonly layerBytes: number | null
}

/** Sizes of the layers, in the order of their volumes. */
export function layerSizesOf(wanted: readonly WantedVolume[]): number[] {
  return wanted.flatMap(({ layerBytes }) => (layerBytes === null ? [] : [layerBytes]))
}

/** The volumes with the parts that were made for their layers, in the same order. */
export function withLayers(wanted: readonly WantedVolume[], parts: readonly DiskPart[]): AttachedVolume[] {
  const left = [...parts]
  return wanted.map(({ layerBytes, ...volume }) => {
    if (layerBytes === null) return { ...volume, overlay: null }
    const overlay = left.shift()
    if (overlay === undefined) throw new Error(`there is no part for the layer over the volume ${volume.volumeId}`)
    return { ...volume, overlay }
  })
}

/** Of the kernel's unit of a file system's size, in bytes. */
const GRANULE = 1024

/** How the guest finds the system disk divided: its own file system first, then the layers. None where there are no layers. */
export function systemPartsOf({ overlayBytes, volumes }: Pick<InstanceRecord, 'overlayBytes' | 'volumes'>): readonly DiskPart[] {
  const layers = volumes.flatMap(({ overlay }) => (overlay === null ? [] : [overlay]))
  if (layers.length === 0) return []
  return [{ offsetBytes: 0, sizeBytes: Math.floor(overlayBytes / GRANULE) * GRANULE }, ...layers]
}

/** Number of the part with a volume's layer, as the guest counts them; null where it has none. */
export function layerPartOf(volumes: readonly AttachedVolume[], volume: AttachedVolume): number | null {
  const layers = volumes.filter(({ overlay }) => overlay !== null)
  return volume.overlay === null ? null : layers.indexOf(volume) + 2
}

/** `invalid_overlay_size` for a size that no writable disk may have. */
export function checkDiskSize({ maxOverlayBytes }: Pick<InstanceSettings, 'maxOverlayBytes'>, bytes: number): void {
  if (bytes > maxOverlayBytes)
    throw new HypemanError(
      'invalid_overlay_size',
      `overlay_size: at most ${formatSize(maxOverlayBytes)} on this server; ask for less, or raise limits.max_overlay_size`,
    )
  if (bytes < 16 * 1024 ** 2) throw new HypemanError('invalid_overlay_size', 'overlay_size: a disk needs at least 16MB')
}
