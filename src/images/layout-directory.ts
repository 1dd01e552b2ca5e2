// An OCI image layout on disk as the tools leave it and take it: `index.json`, `blobs/sha256/…`, one image named `image`.

import { mkdir, open, readFile, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { HypemanError } from '../api/errors.ts'
import { isMissing } from '../files/tree.ts'
import { digestOf, LONGEST_MANIFEST, parseManifest, toOciManifest, type Descriptor, type ImageManifest } from './manifest.ts'
import { digestHex } from './reference.ts'

/** The only name in a layout, for skopeo and umoci. */
export const IMAGE_NAME = 'image'

export function blobPath(layout: string, digest: string): string {
  return path.join(layout, 'blobs', 'sha256', digestHex(digest))
}

/** Makes the directories of a layout without blobs. */
export async function createLayout(layout: string): Promise<void> {
  await mkdir(path.join(layout, 'blobs', 'sha256'), { recursive: true, mode: 0o700 })
  await writeFile(path.join(layout, 'oci-layout'), JSON.stringify({ imageLayoutVersion: '1.0.0' }))
}

/** Writes the manifest, as OCI, and makes it the layout's only image. The blobs that it names lie there already. */
export async function nameImage(layout: string, manifest: ImageManifest): Promise<void> {
  const bytes = toOciManifest(manifest)
  const digest = digestOf(bytes)
  await writeFile(blobPath(layout, digest), bytes)
  const index = {
    schemaVersion: 2,
    manifests: [
      {
        mediaType: 'application/vnd.oci.image.manifest.v1+json',
        digest,
        size: bytes.length,
        annotations: { 'org.opencontainers.image.ref.name': IMAGE_NAME },
      },
    ],
  }
  await writeFile(path.join(layout, 'index.json'), JSON.stringify(index))
}

/** The only image of a layout. `image` names it in errors. */
export async function readLayout(layout: string, image: string): Promise<{ digest: string; manifest: ImageManifest }> {
  const index = parseManifest(await readSmall(path.join(layout, 'index.json'), image), `the index of ${image}`)
  const [entry] = index.kind === 'index' ? index.manifests : []
  if (entry === undefined) throw new HypemanError('invalid_archive', `${image} holds no image`)
  const manifest = parseManifest(await readBlob(layout, entry, image), `the manifest of ${image}`)
  if (manifest.kind === 'index') throw new HypemanError('invalid_archive', `${image} holds an index where its manifest should be`)
  return { digest: entry.digest, manifest }
}

/** A small blob, checked against its digest. */
export async function readBlob(layout: string, { digest }: Pick<Descriptor, 'digest'>, image: string): Promise<Buffer> {
  const bytes = await readSmall(blobPath(layout, digest), image)
  if (digestOf(bytes) !== digest) throw new HypemanError('invalid_archive', `the blob ${digest} of ${image} is damaged`)
  return bytes
}

async function readSmall(file: string, image: string): Promise<Buffer> {
  try {
    const { size } = await stat(file)
    if (size > LONGEST_MANIFEST) throw new HypemanError('invalid_archive', `${path.basename(file)} of ${image} is longer than 4 MiB`)
    return await readFile(file)
  } catch (error) {
    if (isMissing(error)) throw new HypemanError('invalid_archive', `${image} lacks ${path.basename(file)}`, { cause: error })
    throw error
  }
}

/** The first bytes of a file. */
export async function firstBytes(file: string, count: number): Promise<Buffer> {
  await using handle = await open(file, 'r')
  const { bytesRead, buffer } = await handle.read(Buffer.alloc(count), 0, count, 0)
  return buffer.subarray(0, bytesRead)
}
