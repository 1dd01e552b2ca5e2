// Unpacks an archive into a directory. Its headers are judged on the way, and tar(1) gets nothing that was not: no name that leaves the directory, no
// device, no more than fits. Symbolic links may point anywhere, since they mean something in a guest alone; tar itself follows none out.

import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGunzip } from 'node:zlib'
import { HypemanError } from '../api/errors.ts'
import { formatSize } from '../api/units.ts'
import { tarEntries, type TarEntry } from '../files/tar-headers.ts'
import { startTar, type TarProcess } from './tar.ts'

/** Least that a file, and a directory or file with content, takes in a file system, in bytes. */
const INODE_BYTES = 1024
const BLOCK_BYTES = 4096
/** How much longer than its files an archive may be: headers, padding, what follows its end. */
const OVERHEAD_FACTOR = 2
const OVERHEAD_BYTES = 64 * 1024 ** 2

/**
 * Unpacks a tar, plain or gzip, of files that fit into so many bytes. Returns the number of entries.
 * `invalid_archive` or `archive_too_large` if it can't be; the directory then holds a part of it.
 */
export async function unpackArchive(archive: Readable, directory: string, sizeBytes: number): Promise<number> {
  await using tar = startTar(directory)
  const room = new Room(sizeBytes)
  try {
    const { gzip, chunks } = await peek(archive)
    await pipeline(Readable.from(chunks), ...(gzip ? [createGunzip()] : []), async (plain: AsyncIterable<Uint8Array>) => {
      for await (const entry of tarEntries(passOn(plain, tar, sizeBytes))) room.take(entry)
    })
    if (room.entries === 0) throw new HypemanError('invalid_archive', 'the archive is empty; send a tar of at least one file or directory')
    await tar.end()
    return room.entries
  } catch (error) {
    throw await tar.failure(error)
  }
}

/** Tells gzip from a plain tar by its first bytes (RFC 1952), and gives all bytes. */
async function peek(archive: Readable): Promise<{ readonly gzip: boolean; readonly chunks: AsyncIterable<Uint8Array> }> {
  const rest: AsyncIterator<Uint8Array> = archive[Symbol.asyncIterator]()
  let start = Buffer.alloc(0)
  while (start.length < 2) {
    const { done, value } = await rest.next()
    if (done === true) break
    start = Buffer.concat([start, value])
  }
  async function* chunks(): AsyncGenerator<Uint8Array> {
    if (start.length > 0) yield start
    yield* { [Symbol.asyncIterator]: () => rest }
  }
  return { gzip: start[0] === 0x1f && start[1] === 0x8b, chunks: chunks() }
}

/** Gives chunks to the reader of headers first. When that asks for the next, it has accepted all that begins in this one, and tar gets it. */
async function* passOn(plain: AsyncIterable<Uint8Array>, tar: TarProcess, sizeBytes: number): AsyncGenerator<Uint8Array> {
  const longest = OVERHEAD_FACTOR * sizeBytes + OVERHEAD_BYTES
  let bytes = 0
  for await (const chunk of plain) {
    bytes += chunk.length
    if (bytes > longest) throw tooLarge(`is longer than ${formatSize(longest)} when it is unpacked`)
    yield chunk
    await tar.write(chunk)
  }
}

/** What is left of a volume for the entries of an archive. */
class Room {
  readonly #sizeBytes: number
  #usedBytes = 0
  entries = 0

  constructor(sizeBytes: number) {
    this.#sizeBytes = sizeBytes
  }

  take(entry: TarEntry): void {
    this.entries += 1
    // Files, hard links, symbolic links, directories.
    if (!['0', '1', '2', '5'].includes(entry.type))
      throw new HypemanError(
        'invalid_archive',
        `the archive's entry ${entry.path} is a device, a pipe or of a type that a volume can't hold`,
      )
    refuseEscape(entry.path, entry.path)
    if (entry.type === '1') refuseEscape(entry.linkPath, entry.path)
    const blocks = Math.ceil(entry.unpackedBytes / BLOCK_BYTES) + (entry.type === '5' ? 1 : 0)
    this.#usedBytes += Math.max(INODE_BYTES, blocks * BLOCK_BYTES)
    if (this.#usedBytes > this.#sizeBytes) throw tooLarge(`holds more than the volume's ${formatSize(this.#sizeBytes)}`)
  }
}

function refuseEscape(name: string, entry: string): void {
  if (name === '' || name.startsWith('/') || name.split('/').includes('..'))
    throw new HypemanError(
      'invalid_archive',
      `the archive's entry ${JSON.stringify(entry)} leads out of the volume; use relative names without ..`,
    )
}

function tooLarge(what: string): HypemanError {
  return new HypemanError('archive_too_large', `the archive ${what}; create the volume with a larger size_gb`)
}
