// An image as it came, kept beside its root file system so that it can be sent elsewhere with the same digests. A directory in the form of skopeo's
// `dir:` transport: manifest.json, and config and layers under their digests. Blobs that several images have are one file with several names.

import { link, mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { HypemanError } from '../api/errors.ts'
import { isMissing } from '../files/tree.ts'
import { blobPath, readBlob } from './layout-directory.ts'
import { LONGEST_MANIFEST, parseManifest, type ImageManifest } from './manifest.ts'
import { digestHex } from './reference.ts'
import type { KeptImage } from './types.ts'

/** The manifest, under the name that skopeo gives it. */
export const MANIFEST_FILE = 'manifest.json'
const VERSION_FILE = 'version'
const VERSION = 'Directory Transport Version: 1.1\n'

/** True for the name of a config or layer. */
export function isPlainBlob(name: string): boolean {
  return /^[0-9a-f]{64}$/.test(name)
}

/**
 * Keeps the image of a digest, whose blobs are in the layout `layout`, in a directory that is made if need be; `image` names it in errors. A blob that is in one of the directories `others`
 * already takes no room again.
 */
export async function keepBlobs(
  layout: string,
  digest: string,
  image: string,
  directory: string,
  others: readonly string[],
): Promise<void> {
  const bytes = await readBlob(layout, { digest }, image)
  const manifest = readImageManifest(bytes, image)
  await mkdir(directory, { recursive: true, mode: 0o700 })
  await writeFile(path.join(directory, MANIFEST_FILE), bytes, { mode: 0o600 })
  await writeFile(path.join(directory, VERSION_FILE), VERSION, { mode: 0o600 })
  for (const blob of new Map([manifest.config, ...manifest.layers].map((one) => [one.digest, one])).values()) {
    const name = digestHex(blob.digest)
    const here = blobPath(layout, blob.digest)
    const { size } = await stat(here)
    await linkFirst([...(await sameBlobs(name, size, others)), here], path.join(directory, name))
  }
}

async function sameBlobs(name: string, size: number, directories: readonly string[]): Promise<readonly string[]> {
  const files = directories.map((directory) => path.join(directory, name))
  const sizes = await Promise.all(files.map((file) => stat(file).then((found) => found.size, nothingThere)))
  return files.filter((_file, at) => sizes[at] === size)
}

/** Links the first file that is still there when its turn comes; the last one is. */
async function linkFirst(files: readonly string[], target: string): Promise<void> {
  const [file, ...rest] = files
  if (file === undefined) throw new Error(`there is nothing to link as ${target}`)
  try {
    await link(file, target)
  } catch (error) {
    // Its image was removed meanwhile, or it has as many names as the filesystem allows.
    const isGone = isMissing(error) || (error instanceof Error && 'code' in error && error.code === 'EMLINK')
    if (!isGone || rest.length === 0) throw error
    await linkFirst(rest, target)
  }
}

/** What is kept in a directory; undefined if there is none, as of images that were made before blobs were kept. */
export async function findKept(directory: string, image: string): Promise<KeptImage | undefined> {
  const bytes = await readFile(path.join(directory, MANIFEST_FILE)).catch((error: unknown) => {
    if (isMissing(error)) return undefined
    throw error
  })
  if (bytes === undefined) return undefined
  const { config, layers } = readImageManifest(bytes, image)
  const names = new Set(await readdir(directory))
  const lost = [config, ...layers].find(({ digest }) => !names.has(digestHex(digest)))
  if (lost !== undefined)
    throw new HypemanError('conflict', `the blob ${lost.digest} of ${image} is missing in ${directory}; delete the image and pull it again`)
  return { directory, layers: layers.length, layerBytes: layers.reduce((sum, { size }) => sum + size, 0) }
}

function readImageManifest(bytes: Buffer, image: string): ImageManifest {
  if (bytes.length > LONGEST_MANIFEST) throw new HypemanError('invalid_archive', `the manifest of ${image} is longer than 4 MiB`)
  const manifest = parseManifest(bytes, `the manifest of ${image}`)
  if (manifest.kind === 'image') return manifest
  throw new HypemanError('invalid_archive', `${image} holds an index where its manifest should be`)
}

function nothingThere(error: unknown): undefined {
  if (isMissing(error)) return undefined
  throw error
}
