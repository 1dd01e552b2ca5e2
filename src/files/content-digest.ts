// The digest of a file's contents, whatever holes it has: a copy on another filesystem, with coarser or no holes, has the same one, and holes cost nothing.
// The format, "content-sha256": the file is cut into blocks of 4 KiB from its start (the last may be shorter); blocks of zeros alone are left out. With
// `data` the bytes of all other blocks in order, and `map` one pair (first block, number of blocks) for each run of them, as two u64 little-endian:
//   SHA-256("hypeman content 1\n" · u64 size in bytes · SHA-256(data) · SHA-256(map))
// The map says which blocks `data` has, and the size how long the last one is, so different contents never give equal input.

import { createHash, type Hash } from 'node:crypto'
import { constants, readFileSync } from 'node:fs'
import { open, type FileHandle } from 'node:fs/promises'
import { readIdentity, type FileIdentity } from './identity.ts'
import { extentsOf } from './extents.ts'

const BLOCK = 4096
const zeros = Buffer.alloc(BLOCK)
const prefix = 'content-sha256:'
const magic = Buffer.from('hypeman content 1\n', 'latin1')
/** Bytes read at once: a multiple of the block. */
export const CONTENT_CHUNK = 1024 ** 2

export const contentDigestPattern = /^content-sha256:[0-9a-f]{64}$/

export interface Digested {
  readonly digest: string
  /** What the file was while it was read. */
  readonly identity: FileIdentity
  /** Bytes that were read: data, without holes. */
  readonly readBytes: number
}

export interface DigestOptions {
  readonly signal?: AbortSignal | undefined
  /** Told the bytes read so far, after each piece. */
  readonly onProgress?: ((readBytes: number) => void) | undefined
  /** Called with the open file before it is read. */
  readonly prepare?: ((fd: number) => void) | undefined
}

/** Reads a regular file, never through a link. A file that is written to meanwhile is an error. */
export async function digestFile(file: string, options: DigestOptions = {}): Promise<Digested> {
  await using handle = await open(file, constants.O_RDONLY | constants.O_NOFOLLOW)
  options.prepare?.(handle.fd)
  const identity = await readIdentity(handle)
  const content = new ContentHash(identity.sizeBytes)
  const buffer = Buffer.allocUnsafeSlow(CONTENT_CHUNK)
  let [next, readBytes] = [0, 0]
  for (const extent of extentsOf(handle.fd, identity.sizeBytes, file)) {
    // Extents of filesystems with small blocks may begin and end inside of a block of ours.
    const end = Math.min(Math.ceil(extent.to / BLOCK) * BLOCK, identity.sizeBytes)
    for (let at = Math.max(next, Math.floor(extent.from / BLOCK) * BLOCK); at < end; at = next) {
      options.signal?.throwIfAborted()
      const piece = buffer.subarray(0, Math.min(CONTENT_CHUNK, end - at))
      await readWhole(handle, piece, at, file)
      content.add(at, piece)
      readBytes += piece.length
      next = at + piece.length
      options.onProgress?.(readBytes)
    }
  }
  if (!sameVersion(identity, await readIdentity(handle))) throw new Error(`${file} was written to while it was read`)
  return { digest: content.finish(), identity, readBytes }
}

/** The same for a small file whose bytes are likely in memory: at once, since waiting for other threads takes longer than all of it. */
export function digestSmallFile(file: string): string {
  const bytes = readFileSync(file, { flag: constants.O_RDONLY | constants.O_NOFOLLOW })
  const content = new ContentHash(bytes.length)
  content.add(0, bytes)
  return content.finish()
}

function sameVersion(one: FileIdentity, other: FileIdentity): boolean {
  return one.sizeBytes === other.sizeBytes && one.modifiedNs === other.modifiedNs
}

async function readWhole(handle: FileHandle, into: Buffer, position: number, file: string): Promise<void> {
  for (let done = 0; done < into.length;) {
    const { bytesRead } = await handle.read(into, done, into.length - done, position + done)
    if (bytesRead === 0) throw new Error(`${file} shrank while it was read`)
    done += bytesRead
  }
}

/** Takes a file's contents in their order and gives its digest. */
export class ContentHash {
  readonly #size: number
  readonly #data: Hash = createHash('sha256')
  readonly #map: Hash = createHash('sha256')
  #run = { first: 0, count: 0 }

  constructor(size: number) {
    this.#size = size
  }

  /** Takes the bytes at an offset, a multiple of the block; in order. What is left out between two calls is zeros. */
  add(offset: number, bytes: Buffer): void {
    let from = 0
    for (let at = 0; at < bytes.length; at += BLOCK) {
      const end = Math.min(at + BLOCK, bytes.length)
      if (bytes.compare(zeros, 0, end - at, at, end) !== 0) {
        this.#note((offset + at) / BLOCK)
        continue
      }
      if (at > from) this.#data.update(bytes.subarray(from, at))
      from = end
    }
    if (bytes.length > from) this.#data.update(bytes.subarray(from))
  }

  finish(): string {
    this.#endRun()
    const size = Buffer.alloc(8)
    size.writeBigUInt64LE(BigInt(this.#size))
    const parts = createHash('sha256').update(magic).update(size).update(this.#data.digest()).update(this.#map.digest())
    return `${prefix}${parts.digest('hex')}`
  }

  #note(block: number): void {
    if (this.#run.count > 0 && this.#run.first + this.#run.count === block) this.#run.count += 1
    else {
      this.#endRun()
      this.#run = { first: block, count: 1 }
    }
  }

  #endRun(): void {
    if (this.#run.count === 0) return
    const pair = Buffer.alloc(16)
    pair.writeBigUInt64LE(BigInt(this.#run.first))
    pair.writeBigUInt64LE(BigInt(this.#run.count), 8)
    this.#map.update(pair)
  }
}
