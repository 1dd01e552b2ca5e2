// Flow: make a volume. Everything is staged and comes into being by one rename; whatever fails leaves nothing.

import { chmod, mkdir, rm } from 'node:fs/promises'
import path from 'node:path'
import type { Readable } from 'node:stream'
import { execa } from 'execa'
import type { Logger } from 'pino'
import { volumeFiles, type DataLayout } from '../files/layout.ts'
import { createStaged, writeRecord } from '../files/stage.ts'
import { diskErrors } from '../platform/disk-error.ts'
import { unpackArchive } from './archive.ts'
import { makeFilesystem, type Content } from './filesystem.ts'
import { GIB, type VolumeRecord } from './record.ts'
import { keepsOwners } from './tar.ts'

export async function createVolume(layout: DataLayout, log: Logger, record: VolumeRecord, archive?: Readable): Promise<void> {
  // A name of its own, so that what an earlier attempt left behind is in nobody's way.
  await using staged = await createStaged(layout, `volume-${record.id}-${process.hrtime.bigint()}`)
  const disk = path.join(staged.path, volumeFiles.disk)
  if (archive === undefined) await makeFilesystem(disk, record.sizeGib)
  else {
    const directory = path.join(staged.path, 'content')
    try {
      const content = await unpack(archive, directory, record.sizeGib)
      if (!keepsOwners())
        log.warn(
          { volumeId: record.id },
          "the server does not run as root: files of the archive belong to the server's user, who may read and write all of them, and lose their extended attributes",
        )
      await makeFilesystem(disk, record.sizeGib, content)
    } finally {
      await makeRemovable(directory)
      await rm(directory, { recursive: true, force: true })
    }
  }
  await writeRecord(path.join(staged.path, volumeFiles.record), record)
  await staged.commit(layout.volume(record.id))
}

async function unpack(archive: Readable, directory: string, sizeGib: number): Promise<Content> {
  await diskErrors(directory, async () => {
    await mkdir(directory)
    await chmod(directory, 0o755) // of the volume's root, unless the archive says another
  })
  const entries = await unpackArchive(archive, directory, sizeGib * GIB)
  await makeRemovable(directory)
  return { directory, entries }
}

/** A user that is not root can neither read nor remove what an archive has closed to its owner. */
async function makeRemovable(directory: string): Promise<void> {
  if (!keepsOwners()) await execa('chmod', ['-R', 'u+rwX', directory], { reject: false }) // what it can't open is told by who reads or removes it
}
