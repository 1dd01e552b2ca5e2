// Where the blobs of an image come from: a registry, an archive that was taken in, or blobs that this machine has.

import { randomBytes } from 'node:crypto'
import { rename } from 'node:fs/promises'
import path from 'node:path'
import type { Readable } from 'node:stream'
import type { DataLayout } from '../files/layout.ts'
import { createStaged } from '../files/stage.ts'
import { diskErrors } from '../platform/disk-error.ts'
import { importArchive, stageArchive } from './archive.ts'
import type { BlobSource } from './convert.ts'
import { fetchImage } from './fetch.ts'
import { readLayout } from './layout-directory.ts'
import type { Reference } from './reference.ts'
import type { ResolvedImage } from './resolve.ts'
import type { PushedImage, RegistryCredentials } from './types.ts'

/** Blobs of an image that is known by now. */
export interface TakenIn extends BlobSource {
  readonly digest: string
  readonly totalBytes: number
}

const nothingToDispose = (): Promise<void> => Promise.resolve()

export function registrySource(
  reference: Reference,
  { digest, manifest }: ResolvedImage,
  credentials: RegistryCredentials | undefined,
): TakenIn {
  return {
    digest,
    totalBytes: manifest.totalBytes,
    bring: (work, layout, signal, onProgress) => fetchImage({ reference, digest, manifest, credentials, work, layout, signal, onProgress }),
    [Symbol.asyncDispose]: nothingToDispose,
  }
}

export function pushedSource(pushed: PushedImage): TakenIn {
  return {
    digest: pushed.digest,
    totalBytes: pushed.totalBytes,
    bring: (work, layout) => pushed.writeLayout(path.join(work, layout)),
    [Symbol.asyncDispose]: nothingToDispose,
  }
}

export interface Intake {
  readonly layout: DataLayout
  readonly platform: string
  readonly maxBytes: number
  readonly signal: AbortSignal
}

/** Takes an archive in, from a stream or a file; what was staged of it goes when the source is disposed. `image` names it in errors. */
export async function archiveSource(intake: Intake, archive: Readable | string, image: string): Promise<TakenIn> {
  const { layout, platform, signal } = intake
  await using undo = new AsyncDisposableStack()
  const staged = undo.use(await createStaged(layout, `import-${randomBytes(8).toString('hex')}`))
  const file = typeof archive === 'string' ? archive : path.join(staged.path, 'archive.tar')
  if (typeof archive !== 'string') await stageArchive(archive, file, intake.maxBytes, signal)
  const { digest, manifest } = await diskErrors(staged.path, async () => {
    await importArchive(file, staged.path, 'imported', platform, signal)
    return readLayout(path.join(staged.path, 'imported'), image)
  })
  const owned = undo.move()
  return {
    digest,
    totalBytes: manifest.totalBytes,
    bring: (work, target) => rename(path.join(staged.path, 'imported'), path.join(work, target)),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}
