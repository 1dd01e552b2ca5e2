// The door of images: OCI images, pulled, imported or pushed, as root file systems that instances share.

import { Images, type ImageServiceOptions } from './service.ts'

export type { ImageServiceOptions }
export type { Images } from './service.ts'
export { parseConfig } from './config.ts'
export { createLayout, blobPath, nameImage } from './layout-directory.ts'
export {
  choosePlatform,
  digestOf,
  isRunnable,
  LONGEST_MANIFEST,
  parseManifest,
  type ImageManifest,
  type IndexManifest,
} from './manifest.ts'
export { digestHex, isDigest, parseReference, type Reference } from './reference.ts'
export { uploadImage } from './upload.ts'

/** Reads the images on disk, makes `hypeman/base` available, and serves. `close` ends its background work. */
export async function createImageService(options: ImageServiceOptions): Promise<Images> {
  const images = new Images(options)
  await images.open()
  return images
}
