// Flow: make a volume. Everything is staged and comes into being by one rename; whatever fails leaves nothing.

import { chmod, mkdir, rm } from 'node:fs/promises'
import path from 'node:path'
import type { Readable } from 'node:stream'
import { execa } from 'execa'
import type { Logger } from 'pino'
import { volumeFiles, type DataLayout } from '../files/layout.ts'
import { createStaged, moveToTrash, stageRecord } from '../files/stage.ts'
import { diskErrors } from '../platform/disk-error.ts'
import { step, type FlowContext } from '../platform/flow.ts'
import { unpackArchive } from './archive.ts'
import { makeFilesystem, type Content } from './filesystem.ts'
import { GIB, type VolumeRecord } from './record.ts'
import { keepsOwners } from './tar.ts'

export interface VolumeCreation {
  readonly layout: DataLayout
  readonly log: Logger
  readonly flow: FlowContext
}

export async function createVolume({ layout, log, flow }: VolumeCreation, record: VolumeRecord, archive?: Readable): Promise<void> {
  // A name of its own, so that what an earlier attempt left behind is in nobody's way.
  await using undo = new AsyncDisposableStack()
  const staged = await step(flow, 'stage', async () =>
    undo.use(await createStaged(layout, `volume-${record.id}-${process.hrtime.bigint()}`)),
  )
  const disk = path.join(staged.path, volumeFiles.disk)
  if (archive === undefined) await step(flow, 'format', () => makeFilesystem(disk, record.sizeGib))
  else {
    const directory = path.join(staged.path, 'content')
    try {
      const content = await step(flow, 'unpack', () => unpack(archive, directory, record.sizeGib))
      if (!keepsOwners())
        log.warn(
          { volumeId: record.id },
          "the server does not run as root: files of the archive belong to the server's user, who may read and write all of them, and lose their extended attributes",
        )
      await step(flow, 'format', () => makeFilesystem(disk, record.sizeGib, content))
    } finally {
      await diskErrors(directory, async () => {
        await makeRemovable(directory)
        await rm(directory, { recursive: true, force: true })
      })
    }
  }
  await stageRecord(path.join(staged.path, volumeFiles.record), record)
  undo.defer(() => moveToTrash(layout, layout.volume(record.id)))
  await step(flow, 'commit', () => staged.commit(layout.volume(record.id)))
  undo.move()
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
