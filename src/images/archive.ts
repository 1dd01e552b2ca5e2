// Takes in an image from an archive: an OCI archive or what `docker save` writes, plain or gzip. Ends with an OCI layout; converting comes later.

import { createReadStream, createWriteStream } from 'node:fs'
import { rm } from 'node:fs/promises'
import path from 'node:path'
import type { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGunzip } from 'node:zlib'
import { HypemanError, isHypemanError } from '../api/errors.ts'
import { formatSize } from '../api/units.ts'
import { diskError } from '../platform/disk-error.ts'
import { IMAGE_NAME, firstBytes } from './layout-directory.ts'
import { LONGEST_MANIFEST, parseManifest } from './manifest.ts'
import { tarEntries, TarError } from '../files/tar-headers.ts'
import { lastLine, runTool, ToolError } from '../platform/tool.ts'

/** Writes a stream to a plain tar file; gzip is taken off. A stream that breaks, or is larger than `maxBytes`, is `invalid_archive`. */
export async function stageArchive(archive: Readable, file: string, maxBytes: number, signal: AbortSignal): Promise<void> {
  const limit = async function* (chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    let bytes = 0
    for await (const chunk of chunks) {
      bytes += chunk.length
      if (bytes > maxBytes)
        throw new HypemanError('invalid_archive', `the archive is larger than ${formatSize(maxBytes)}, which this server does not take`)
      yield chunk
    }
  }
  const received = `${file}.received`
  try {
    await pipeline(archive, limit, createWriteStream(received, { flags: 'wx', mode: 0o600 }), { signal })
    const start = await firstBytes(received, 2)
    const unpack = start[0] === 0x1f && start[1] === 0x8b ? [createGunzip()] : []
    await pipeline([createReadStream(received), ...unpack, limit, createWriteStream(file, { flags: 'wx', mode: 0o600 })], { signal })
    await rm(received)
  } catch (error) {
    signal.throwIfAborted()
    const translated = diskError(file, error)
    if (isHypemanError(translated)) throw translated
    throw new HypemanError('invalid_archive', `the archive can't be read: ${error instanceof Error ? error.message : String(error)}`, {
      cause: error,
    })
  }
}

/** Brings the only image of a tar file to the layout `layout` of the directory `work`. */
export async function importArchive(file: string, work: string, layout: string, platform: string, signal: AbortSignal): Promise<void> {
  const transport = await formatOf(file, signal)
  const [os = '', architecture = ''] = platform.split('/')
  try {
    await runTool(
      'skopeo',
      [
        ...['--tmpdir', work, '--override-os', os, '--override-arch', architecture],
        ...['copy', '--quiet', '--dest-oci-accept-uncompressed-layers', `${transport}:${file}`, `oci:${layout}:${IMAGE_NAME}`],
      ],
      { cwd: work, signal },
    )
  } catch (error) {
    if (!(error instanceof ToolError)) throw error
    if (/no image found in (?:manifest list|image index) for architecture/i.test(error.said))
      throw new HypemanError('platform_not_available', `the archive holds no image for ${platform}`, { cause: error })
    throw new HypemanError('invalid_archive', `the archive can't be imported: ${lastLine(error.said)}`, { cause: error })
  }
}

async function formatOf(file: string, signal: AbortSignal): Promise<'oci-archive' | 'docker-archive'> {
  const names = new Set<string>()
  await eachEntry(file, signal, (name) => void names.add(name))
  // docker save writes both since version 25; its own list knows several tags of one image.
  if (names.has('manifest.json')) return 'docker-archive'
  if (names.has('oci-layout') && names.has('index.json')) return 'oci-archive'
  throw new HypemanError(
    'invalid_archive',
    'the archive is neither an OCI archive (index.json) nor one of docker save (manifest.json); make one with docker save or skopeo copy',
  )
}

/** The digest of the only manifest of an OCI archive, without unpacking it; undefined if it can't be told. */
export async function archivedDigest(file: string, signal: AbortSignal): Promise<string | undefined> {
  let digest: string | undefined
  await eachEntry(file, signal, async (name, read) => {
    const bytes = name === 'index.json' ? await read() : undefined
    if (bytes === undefined) return
    const index = parseManifest(bytes, `the index of ${path.basename(file)}`)
    if (index.kind === 'index' && index.manifests.length === 1) digest = index.manifests[0]?.digest
  })
  return digest
}

type Visit = (name: string, read: () => Promise<Buffer | undefined>) => void | Promise<void>

async function eachEntry(file: string, signal: AbortSignal, visit: Visit): Promise<void> {
  try {
    await pipeline(
      createReadStream(file, { highWaterMark: 1024 * 1024 }),
      async (chunks: AsyncIterable<Uint8Array>) => {
        for await (const entry of tarEntries(chunks)) await visit(entry.path.replace(/^(?:\.?\/)+/, ''), () => entry.read(LONGEST_MANIFEST))
      },
      { signal },
    )
  } catch (error) {
    if (!(error instanceof TarError)) throw error
    throw new HypemanError('invalid_archive', `the archive is no intact tar: ${error.message}`, { cause: error })
  }
}
