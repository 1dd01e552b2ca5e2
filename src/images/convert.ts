// Flow: from an image's blobs to its committed root file system. Until the commit everything is staged, so a failure leaves nothing.

import { randomBytes } from 'node:crypto'
import { rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { imageFiles, type DataLayout } from '../files/layout.ts'
import { createStaged, moveToTrash, stageRecord } from '../files/stage.ts'
import { diskErrors } from '../platform/disk-error.ts'
import { step, type FlowContext } from '../platform/flow.ts'
import { parseConfig } from './config.ts'
import { keepBlobs } from './kept-blobs.ts'
import { inspectLayers, type LayerLimits } from './layers.ts'
import { readBlob, readLayout } from './layout-directory.ts'
import type { ImageRecord } from './records.ts'
import { digestHex } from './reference.ts'
import { unpackRootfs, writeErofs } from './rootfs.ts'
import { runTool } from '../platform/tool.ts'

export interface ConversionContext {
  readonly layout: DataLayout
  readonly flow: FlowContext
  readonly platform: string
  readonly limits: LayerLimits
  /** The image, if it was made before blobs were kept: then they alone are added to it, in one rename, as it may be in use. */
  readonly present: ImageRecord | undefined
  /** Directories of blobs of the images that are here. */
  readonly keptBlobs: readonly string[]
}

/** Where the blobs of an image come from. Disposed when they are no longer needed, whether they were used or not. */
export interface BlobSource extends AsyncDisposable {
  /** Makes the OCI layout `layout` in the staged directory `work`. The manifest that the image's digest is of is among its blobs, as it came. */
  bring(work: string, layout: string, signal: AbortSignal, onProgress: (doneBytes: number) => void): Promise<void>
}

export interface ConversionProgress {
  fetched(doneBytes: number): void
  converting(): void
}

const LAYOUT = 'layout'

/** `image` names the image in errors. */
export async function convertImage(
  context: ConversionContext,
  source: BlobSource,
  digest: string,
  image: string,
  progress: ConversionProgress,
): Promise<ImageRecord> {
  const { layout, flow, platform, present } = context
  const { signal } = flow
  const unique = `${digestHex(digest).slice(0, 12)}-${randomBytes(4).toString('hex')}`
  await using undo = new AsyncDisposableStack()
  const work = undo.use(await createStaged(layout, `image-${unique}`))
  // Files of the image may be closed to their owner; only root can remove them then.
  if (process.geteuid?.() !== 0) undo.defer(() => openForRemoval(work.path))
  const blobs = path.join(work.path, LAYOUT)
  await step(flow, 'fetch', () => diskErrors(work.path, () => source.bring(work.path, LAYOUT, signal, (bytes) => progress.fetched(bytes))))
  progress.converting()
  const result = undo.use(await createStaged(layout, `rootfs-${unique}`))
  const kept = present === undefined ? path.join(result.path, imageFiles.blobs) : result.path
  const keep = (): Promise<void> =>
    step(flow, 'keep', () => diskErrors(kept, () => keepBlobs(blobs, digest, image, kept, context.keptBlobs)))
  if (present !== undefined) {
    await keep()
    const place = path.join(layout.image(digestHex(digest)), imageFiles.blobs)
    // Of those that are there some may be lost.
    await moveToTrash(layout, place)
    await result.commit(place)
    return present
  }
  const { config, seen } = await step(flow, 'inspect', async () => {
    const { manifest } = await readLayout(blobs, image)
    const parsed = parseConfig(await readBlob(blobs, manifest.config, image), platform, image)
    return { config: parsed, seen: await inspectLayers(blobs, manifest, image, context.limits, signal) }
  })
  await keep()
  const rootfs = await step(flow, 'unpack', () => unpackRootfs(work.path, LAYOUT, image, signal))
  await rm(blobs, { recursive: true })
  const file = path.join(result.path, imageFiles.rootfs)
  await step(flow, 'write', () => writeErofs(rootfs, file, digest, seen.newest, signal))
  const record: ImageRecord = {
    version: 1,
    digest,
    platform,
    sizeBytes: (await stat(file)).size,
    createdAt: new Date().toISOString(),
    config,
  }
  await stageRecord(path.join(result.path, imageFiles.record), record)
  await using committed = new AsyncDisposableStack()
  committed.defer(() => moveToTrash(layout, layout.image(digestHex(digest))))
  await step(flow, 'commit', async () => {
    // One whose record can't be read may be there.
    await moveToTrash(layout, layout.image(digestHex(digest)))
    await result.commit(layout.image(digestHex(digest)))
  })
  committed.move()
  return record
}

async function openForRemoval(directory: string): Promise<void> {
  await runTool('chmod', ['-R', 'u+rwX', directory], { cwd: path.dirname(directory), signal: new AbortController().signal })
}
