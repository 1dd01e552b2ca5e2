// What a pushed manifest means as an image: which manifest is for this platform, and its blobs as an OCI layout made of hard links.

import { link, readFile, writeFile } from 'node:fs/promises'
import { HypemanError, isHypemanError } from '../api/errors.ts'
import {
  blobPath,
  choosePlatform,
  createLayout,
  isDigest,
  isRunnable,
  nameImage,
  parseConfig,
  parseManifest,
  type ImageManifest,
} from '../images/index.ts'
import type { PushedImage } from '../images/types.ts'
import type { BlobStore } from './blobs.ts'
import { OciError, type ManifestUpload, type StoredManifest } from './types.ts'

/** The image of a committed manifest; undefined for what is no image, such as an attestation or a chart. */
export async function imageOf(
  blobs: BlobStore,
  stored: StoredManifest,
  upload: Pick<ManifestUpload, 'repository' | 'reference' | 'host'>,
  platform: string,
): Promise<PushedImage | undefined> {
  const name = nameIn(upload.repository, upload.reference)
  const names = { name, aliases: upload.host === undefined ? [] : [nameIn(`${upload.host}/${upload.repository}`, upload.reference)] }
  const manifest = parseManifest(await readFile(stored.path), `the manifest of ${name}`)
  if (manifest.kind === 'image') {
    // What comes by digest is part of an index that follows, as a rule: of its parts just the one for this platform is an image here.
    const wanted = isRunnable(manifest) && (!isDigest(upload.reference) || (await isFor(platform, blobs, manifest, name)))
    return wanted ? { ...names, ...contentOf(blobs, stored.digest, manifest) } : undefined
  }
  const chosen = choosePlatform(manifest, platform)
  const child = chosen === undefined ? undefined : await blobs.find(chosen.digest)
  if (child === undefined) return { ...names, ...unavailable(name, stored.digest, platform) }
  const image = parseManifest(await readFile(child.path), `the manifest of ${name} for ${platform}`)
  if (image.kind === 'image') return isRunnable(image) ? { ...names, ...contentOf(blobs, child.digest, image) } : undefined
  throw new OciError('MANIFEST_INVALID', `the index ${stored.digest} names another index for ${platform}; push that one`)
}

async function isFor(platform: string, blobs: BlobStore, manifest: ImageManifest, name: string): Promise<boolean> {
  const config = await blobs.peek(manifest.config.digest)
  if (config === undefined) return false
  try {
    parseConfig(await config.read(), platform, name)
    return true
  } catch (error) {
    if (isHypemanError(error, 'platform_not_available')) return false
    throw error
  }
}

/** As references name it: with a colon before a tag, an at sign before a digest. */
export function nameIn(repository: string, reference: string): string {
  return reference.includes(':') ? `${repository}@${reference}` : `${repository}:${reference}`
}

type Content = Pick<PushedImage, 'digest' | 'totalBytes' | 'writeLayout'>

function contentOf(blobs: BlobStore, digest: string, manifest: ImageManifest): Content {
  return {
    digest,
    totalBytes: manifest.totalBytes,
    async writeLayout(layout) {
      await createLayout(layout)
      for (const blobDigest of new Set([manifest.config, ...manifest.layers].map((blob) => blob.digest))) {
        const blob = await blobs.find(blobDigest)
        if (blob === undefined) throw removedMeanwhile(blobDigest)
        await link(blob.path, blobPath(layout, blobDigest))
      }
      await nameImage(layout, manifest)
      const own = await blobs.find(digest)
      if (own === undefined) throw removedMeanwhile(digest)
      // No link: what is named in a layout is written there.
      await writeFile(blobPath(layout, digest), await readFile(own.path))
    },
  }
}

function removedMeanwhile(digest: string): HypemanError {
  return new HypemanError('invalid_archive', `the blob ${digest} was removed meanwhile; push the image again`)
}

/** Taken, since it can be pulled by others, but shown as failed. */
function unavailable(name: string, digest: string, platform: string): Content {
  return {
    digest,
    totalBytes: 0,
    writeLayout: () =>
      Promise.reject(new HypemanError('platform_not_available', `the image ${name} was pushed without a manifest for ${platform}`)),
  }
}
