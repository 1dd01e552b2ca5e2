// Freezes the disk of a live machine: an empty layer is made and opened while the guest runs, so that the pivot onto it is all that the pause holds.

import { randomBytes } from 'node:crypto'
import { systemDisk } from './command-line.ts'
import type { Machine } from '../driver.ts'
import { addLayer, layerName, removeLayersAbove, sizeOfLayer } from './layers.ts'
import { asQemu, type QemuMachine } from './machine.ts'

/** Disposing takes the new layer back, unless QEMU writes to it by then. */
export interface PreparedLayer extends AsyncDisposable {
  /** Number of the layer that the pivot freezes. */
  readonly below: number
  /** From here on the guest writes to the new layer. */
  pivot(): Promise<void>
}

/** Makes the disk of a live machine that long, in bytes, unless it is already. */
export async function growLiveDisk(machine: Machine, sizeBytes: number, signal: AbortSignal): Promise<void> {
  const qemu = asQemu(machine)
  const { node, number } = await qemu.activeLayer()
  signal.throwIfAborted()
  // QEMU would make a longer one shorter.
  if (sizeOfLayer(qemu.directory, number) < sizeBytes) await qemu.command('block_resize', { 'node-name': node, size: sizeBytes })
}

export async function prepareLayer(qemu: QemuMachine, directory: string): Promise<PreparedLayer> {
  const active = await qemu.activeLayer()
  await addLayer(directory, active.number)
  // A name of its own: a node that a killed server left behind keeps its name as long as QEMU runs.
  const node = `${systemDisk}-${active.number + 1}-${randomBytes(4).toString('hex')}`
  let pivoted = false
  const takeBack = async (): Promise<void> => {
    if (pivoted) return
    // An answer that got lost is no proof that nothing happened: QEMU is asked, and if it can't be, a layer too many does no harm.
    const now = await qemu.activeLayer().catch(() => undefined)
    if (now?.node !== active.node) return
    await qemu.command('blockdev-del', { 'node-name': node }).catch(() => undefined) // it was never added
    await removeLayersAbove(directory, active.number)
  }
  try {
    await qemu.command('blockdev-add', {
      ...{ 'node-name': node, driver: 'qcow2', discard: 'unmap', 'detect-zeroes': 'unmap', backing: null },
      file: { driver: 'file', filename: layerName(active.number + 1) },
    })
  } catch (error) {
    await takeBack()
    throw error
  }
  return {
    below: active.number,
    async pivot() {
      await qemu.command('blockdev-snapshot', { node: active.node, overlay: node })
      pivoted = true
    },
    [Symbol.asyncDispose]: takeBack,
  }
}
