// Makes the system disk longer by file systems of their own: an empty ext4 is copied behind what is there, in one more layer. In which part the
// guest finds what is the kernel's command line to say (command-line.ts).

import { rename, rm } from 'node:fs/promises'
import path from 'node:path'
import { partsBehind } from '../../files/disk-parts.ts'
import { runDiskTool } from '../../files/disk-tool.ts'
import { linkFilesystem } from '../../files/empty-filesystem.ts'
import { createStaged, syncDirectory, syncFile } from '../../files/stage.ts'
import { diskErrors } from '../../platform/disk-error.ts'
import type { DataLayout } from '../../files/layout.ts'
import type { AddedParts, DiskPart } from '../driver.ts'
import { lastLayer, layerName, linkLayers, removeLayersAbove, sizeOfLayer } from './layers.ts'
import { createOverlay } from './qcow2.ts'

/** The layer is made among links to those below it, and comes into the directory whole: a process that is killed leaves nothing there. */
export async function addDiskParts(layout: DataLayout, directory: string, sizes: readonly number[]): Promise<AddedParts> {
  const below = lastLayer(directory)
  const name = layerName(below + 1)
  const { parts, endBytes } = partsBehind(sizeOfLayer(directory, below), sizes)
  await using staged = await createStaged(layout, `disk-parts-${process.hrtime.bigint()}`)
  await diskErrors(staged.path, () => linkLayers(directory, staged.path, below))
  const layer = path.join(staged.path, name)
  const overlay = { file: layer, backing: layerName(below), backingFormat: below === 0 ? 'raw' : 'qcow2', sizeBytes: endBytes } as const
  await createOverlay(overlay, false)
  for (const part of parts) await copyFilesystem(layout, staged.path, name, part)
  await diskErrors(layer, async () => {
    await syncFile(layer)
    await rename(layer, path.join(directory, name))
    await syncDirectory(directory)
  })
  return {
    parts,
    async [Symbol.asyncDispose]() {
      await removeLayersAbove(directory, below)
      await syncDirectory(directory)
    },
  }
}

/** What is written of an empty file system is a small part of it: the rest stays holes. */
async function copyFilesystem(layout: DataLayout, directory: string, layer: string, part: DiskPart): Promise<void> {
  const source = 'part.raw'
  await linkFilesystem(layout, part.sizeBytes, path.join(directory, source))
  const target = `driver=raw,offset=${part.offsetBytes},size=${part.sizeBytes},file.driver=qcow2,file.file.driver=file,file.file.filename=${layer}`
  const args = ['convert', '-q', '-n', '--target-is-zero', '--target-image-opts', '-f', 'raw', source, target]
  await diskErrors(path.join(directory, layer), () => runDiskTool('qemu-img', args, directory))
  await rm(path.join(directory, source))
}
