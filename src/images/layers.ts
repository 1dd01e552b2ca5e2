// Looks through an image's layers before anything is unpacked: how large they become, and that no entry points outside.
// What umoci can't read (zstd, media types that lie) is put right in the layout. Digests are checked by umoci as it unpacks.

import { createHash } from 'node:crypto'
import { createReadStream, createWriteStream } from 'node:fs'
import { rename, stat, statfs } from 'node:fs/promises'
import path from 'node:path'
import { pipeline } from 'node:stream/promises'
import { createGunzip, createZstdDecompress } from 'node:zlib'
import { HypemanError, isHypemanError } from '../api/errors.ts'
import { formatSize } from '../api/units.ts'
import { diskErrors } from '../platform/disk-error.ts'
import { isMissing } from '../files/tree.ts'
import { blobPath, firstBytes, nameImage } from './layout-directory.ts'
import type { Compression, Descriptor, ImageManifest } from './manifest.ts'
import { tarEntries, TarError, type TarEntry } from '../files/tar-headers.ts'

export interface LayerLimits {
  /** Of all layers, unpacked, bytes. */
  readonly maxUnpackedBytes: number
}

export interface LayersSeen {
  /** What the root file system takes at most, bytes. */
  readonly unpackedBytes: number
  /** Newest modification time of an entry, seconds since 1970. */
  readonly newest: number
}

/** Most files and directories of an image. The largest public images have some hundred thousand. */
const MOST_ENTRIES = 4_000_000
/** What a file takes at least on the disk, beside its content: an inode and its share of a directory. */
const ENTRY_BYTES = 512

/** Checks the layers of a layout; `image` names it in errors. Throws `invalid_archive` for damaged or hostile ones, `storage_full` if they won't fit. */
export async function inspectLayers(
  layout: string,
  manifest: ImageManifest,
  image: string,
  limits: LayerLimits,
  signal: AbortSignal,
): Promise<LayersSeen> {
  const tally = new Tally(image, limits)
  const layers: Descriptor[] = []
  for (const [index, layer] of manifest.layers.entries()) {
    const which = `layer ${index + 1} of ${image}`
    try {
      const readable = await makeReadable(layout, layer, limits, signal)
      await scan(blobPath(layout, readable.digest), readable.mediaType.endsWith('+gzip') ? 'gzip' : 'none', tally, which, signal)
      layers.push(readable)
    } catch (error) {
      signal.throwIfAborted()
      throw explain(which, layer, error)
    }
  }
  await nameImage(layout, { ...manifest, layers })
  await checkSpace(layout, tally.bytes, image)
  return { unpackedBytes: tally.bytes, newest: tally.newest }
}

/** What all layers add up to. */
class Tally {
  readonly #image: string
  readonly #limits: LayerLimits
  bytes = 0
  newest = 0
  #entries = 0

  constructor(image: string, limits: LayerLimits) {
    this.#image = image
    this.#limits = limits
  }

  add(entry: TarEntry): void {
    this.bytes += ENTRY_BYTES + entry.unpackedBytes
    this.#entries += 1
    this.newest = Math.min(Math.max(this.newest, entry.mtime), 2 ** 32)
    if (this.bytes > this.#limits.maxUnpackedBytes)
      throw new HypemanError(
        'invalid_archive',
        `${this.#image} is larger than ${formatSize(this.#limits.maxUnpackedBytes)} when unpacked, which this server does not take`,
      )
    if (this.#entries > MOST_ENTRIES)
      throw new HypemanError('invalid_archive', `${this.#image} has more than ${MOST_ENTRIES} files, which this server does not take`)
  }
}

async function scan(file: string, compression: Compression, tally: Tally, which: string, signal: AbortSignal): Promise<void> {
  const count = async (chunks: AsyncIterable<Uint8Array>): Promise<void> => {
    for await (const entry of tarEntries(chunks)) {
      checkNames(entry, which)
      tally.add(entry)
    }
  }
  const source = createReadStream(file, { highWaterMark: 256 * 1024 })
  if (compression === 'none') await pipeline(source, count, { signal })
  else await pipeline(source, createGunzip({ chunkSize: 256 * 1024 }), count, { signal })
}

function checkNames(entry: TarEntry, which: string): void {
  const names = entry.type === '1' ? [entry.path, entry.linkPath] : [entry.path]
  for (const name of names)
    if (name.includes('\0') || name.split('/').includes('..'))
      throw new HypemanError(
        'invalid_archive',
        `${which} has the entry ${JSON.stringify(entry.path)}, which points outside the image; it was not unpacked`,
      )
}

/** The layer in a form that umoci reads, with the media type of what its bytes really are. */
async function makeReadable(layout: string, layer: Descriptor, limits: LayerLimits, signal: AbortSignal): Promise<Descriptor> {
  const file = blobPath(layout, layer.digest)
  const compression = compressionByMagic(await firstBytes(file, 4))
  if (compression !== 'zstd') return { ...layer, mediaType: compression === 'gzip' ? 'tar+gzip' : 'tar' }
  const plain = path.join(layout, 'decompressed')
  const hash = createHash('sha256')
  let bytes = 0
  await diskErrors(layout, () =>
    pipeline(
      createReadStream(file),
      createZstdDecompress(),
      async function* (chunks: AsyncIterable<Uint8Array>) {
        for await (const chunk of chunks) {
          bytes += chunk.length
          if (bytes > limits.maxUnpackedBytes)
            throw new HypemanError(
              'invalid_archive',
              `it is larger than ${formatSize(limits.maxUnpackedBytes)} when decompressed, which this server does not take`,
            )
          hash.update(chunk)
          yield chunk
        }
      },
      createWriteStream(plain, { mode: 0o600 }),
      { signal },
    ),
  )
  const digest = `sha256:${hash.digest('hex')}`
  await rename(plain, blobPath(layout, digest))
  return { mediaType: 'tar', digest, size: (await stat(blobPath(layout, digest))).size }
}

function compressionByMagic(start: Buffer): Compression {
  if (start[0] === 0x1f && start[1] === 0x8b) return 'gzip'
  return start.length === 4 && start.readUInt32LE() === 0xfd2fb528 ? 'zstd' : 'none'
}

function explain(which: string, layer: Descriptor, error: unknown): unknown {
  if (isHypemanError(error)) return error
  if (isMissing(error)) return new HypemanError('invalid_archive', `${which} (${layer.digest}) is missing`, { cause: error })
  const fromZlib = error instanceof Error && 'code' in error && typeof error.code === 'string' && /^(Z_|ZSTD_|ERR_ZSTD)/.test(error.code)
  if (fromZlib || error instanceof TarError)
    return new HypemanError('invalid_archive', `${which} (${layer.digest}) is damaged: ${error.message}`, { cause: error })
  return error
}

/** The unpacked files and the disk made of them are there at the same time. */
async function checkSpace(directory: string, unpackedBytes: number, image: string): Promise<void> {
  const { bavail, bsize } = await statfs(directory)
  const needed = unpackedBytes * 2
  if (needed > bavail * bsize)
    throw new HypemanError(
      'storage_full',
      `${image} needs ${formatSize(needed)} to be converted, and ${formatSize(bavail * bsize)} are free in the data directory`,
    )
}
