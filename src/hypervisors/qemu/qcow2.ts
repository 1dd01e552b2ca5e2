// Writes an empty qcow2 overlay: what `qemu-img create -b` makes, without a process. Format: QEMU's docs/interop/qcow2.txt, version 3.
// Layout in clusters of 64 KiB: header, refcount table, one refcount block, L1 table. All numbers big-endian.

import { closeSync, fstatSync, openSync, readSync } from 'node:fs'
import { open, rename } from 'node:fs/promises'
import path from 'node:path'
import { HypemanError } from '../../api/errors.ts'
import { writeFully } from '../../files/memory-image/private-pages.ts'
import { removeFile, syncDirectory, syncFile } from '../../files/stage.ts'
import { diskErrors } from '../../platform/disk-error.ts'
import { together } from '../../platform/flow.ts'

const CLUSTER_BITS = 16
const CLUSTER = 1 << CLUSTER_BITS
const HEADER_BYTES = 104
/** Guest bytes that one L1 entry covers: an L2 table of one cluster of 8-byte entries. */
const BYTES_PER_L1_ENTRY = CLUSTER * (CLUSTER / 8)
const BACKING_FORMAT_EXTENSION = 0xe279_2aca

/** Ending of the names of files in the making; nobody reads them, and whoever makes them next removes them. */
export const TEMPORARY = '.tmp'

export interface Overlay {
  /** Path of the file to make. */
  readonly file: string
  /** Name of the backing file, relative to the overlay's directory, so that both can be linked elsewhere together. */
  readonly backing: string
  readonly backingFormat: 'raw' | 'qcow2'
  /** Size of the disk, in bytes. */
  readonly sizeBytes: number
}

/** Makes the file whole or not at all, durably: no name is ever a half-written layer's. With `durable` false it is for a staged directory, which is committed whole or dropped. */
export async function createOverlay(overlay: Overlay, durable: boolean): Promise<void> {
  if (!durable) return diskErrors(overlay.file, () => writeOverlay(overlay, overlay.file))
  const temporary = `${overlay.file}${TEMPORARY}`
  await diskErrors(overlay.file, async () => {
    await removeFile(temporary)
    try {
      await writeOverlay(overlay, temporary)
      await syncFile(temporary)
      await rename(temporary, overlay.file)
      await syncDirectory(path.dirname(overlay.file))
    } catch (error) {
      await removeFile(temporary)
      throw error
    }
  })
}

async function writeOverlay(overlay: Overlay, target: string): Promise<void> {
  const l1Entries = l1EntriesOf(overlay.sizeBytes)
  const clusters = emptyClusters(l1Entries)
  const tableEntry = Buffer.alloc(8)
  tableEntry.writeBigUInt64BE(BigInt(2 * CLUSTER))
  const refcounts = Buffer.alloc(clusters * 2)
  for (let cluster = 0; cluster < clusters; cluster += 1) refcounts.writeUInt16BE(1, cluster * 2)
  await using file = await open(target, 'wx', 0o600)
  // At once, in whatever order: each is a way to one of Node's threads and back, and every fork makes a layer.
  await together([
    file.truncate(clusters * CLUSTER),
    writeFully(file, header(overlay, l1Entries), 0),
    writeFully(file, tableEntry, CLUSTER),
    writeFully(file, refcounts, 2 * CLUSTER),
  ])
}

function l1EntriesOf(sizeBytes: number): number {
  return Math.ceil(sizeBytes / BYTES_PER_L1_ENTRY)
}

/** Clusters of an overlay that holds nothing: header, refcount table, refcount block, L1 table. */
function emptyClusters(l1Entries: number): number {
  return 3 + Math.ceil((l1Entries * 8) / CLUSTER)
}

function header(overlay: Overlay, l1Entries: number): Buffer {
  const backing = Buffer.from(overlay.backing)
  const format = Buffer.from(overlay.backingFormat)
  const formatBytes = Math.ceil(format.length / 8) * 8
  const backingOffset = HEADER_BYTES + 8 + formatBytes + 8
  const bytes = Buffer.alloc(backingOffset + backing.length)
  bytes.writeUInt32BE(0x5146_49fb, 0)
  bytes.writeUInt32BE(3, 4)
  bytes.writeBigUInt64BE(BigInt(backingOffset), 8)
  bytes.writeUInt32BE(backing.length, 16)
  bytes.writeUInt32BE(CLUSTER_BITS, 20)
  bytes.writeBigUInt64BE(BigInt(overlay.sizeBytes), 24)
  bytes.writeUInt32BE(l1Entries, 36)
  bytes.writeBigUInt64BE(BigInt(3 * CLUSTER), 40)
  bytes.writeBigUInt64BE(BigInt(CLUSTER), 48)
  bytes.writeUInt32BE(1, 56)
  bytes.writeUInt32BE(4, 96) // 16-bit refcounts
  bytes.writeUInt32BE(HEADER_BYTES, 100)
  bytes.writeUInt32BE(BACKING_FORMAT_EXTENSION, HEADER_BYTES)
  bytes.writeUInt32BE(format.length, HEADER_BYTES + 4)
  format.copy(bytes, HEADER_BYTES + 8)
  backing.copy(bytes, backingOffset)
  return bytes
}

/** What a qcow2 file's header says of the disk. */
export interface OverlayFacts {
  /** Size of the disk, in bytes. */
  readonly sizeBytes: number
  /** Nothing was ever written to it: the first write would have needed another cluster for its L2 table. */
  readonly isEmpty: boolean
}

export function readOverlay(file: string): OverlayFacts {
  const { bytes, size } = readHead(file, 32)
  if (bytes.length < 32 || bytes.readUInt32BE(0) !== 0x5146_49fb)
    throw new HypemanError(
      'conflict',
      `the disk layer ${file} is damaged: it is not a qcow2 file; use a snapshot of the instance, or delete it`,
    )
  const sizeBytes = Number(bytes.readBigUInt64BE(24))
  return { sizeBytes, isEmpty: size === emptyClusters(l1EntriesOf(sizeBytes)) * CLUSTER }
}

/** The first bytes of a file, as many as it has, and its size. At once: each fork and start looks at some. */
function readHead(file: string, length: number): { readonly bytes: Buffer; readonly size: number } {
  const fd = openSync(file, 'r')
  try {
    const buffer = Buffer.allocUnsafe(length)
    return { bytes: buffer.subarray(0, readSync(fd, buffer, 0, length, 0)), size: fstatSync(fd).size }
  } finally {
    closeSync(fd)
  }
}

/** Where a qcow2 file has contents that are not in itself. */
export interface Backing {
  /** The name in the header, as it is there; undefined: none. */
  readonly backing: string | undefined
  /** Of the backing file; undefined if the header doesn't say, so that QEMU would guess. */
  readonly format: string | undefined
  /** The contents lie in a data file of another name. */
  readonly elsewhere: boolean
}

/** Incompatible feature: an external data file. */
const DATA_FILE = 1n << 2n

/** All that a header names lies in the first cluster. */
export function readBacking(file: string): Backing {
  const { bytes } = readHead(file, CLUSTER)
  const damaged = (what: string): HypemanError =>
    new HypemanError('conflict', `the disk layer ${file} is damaged: ${what}; use a snapshot of the instance, or delete it`)
  if (bytes.length < HEADER_BYTES || bytes.readUInt32BE(0) !== 0x5146_49fb) throw damaged('it is not a qcow2 file')
  if (bytes.readUInt32BE(4) !== 3) throw damaged('it is not of version 3')
  const [at, length] = [Number(bytes.readBigUInt64BE(8)), bytes.readUInt32BE(16)]
  if (at + length > bytes.length) throw damaged('its header ends early')
  return {
    backing: at === 0 ? undefined : bytes.toString('utf8', at, at + length),
    format: backingFormat(bytes),
    elsewhere: (bytes.readBigUInt64BE(72) & DATA_FILE) !== 0n,
  }
}

function backingFormat(bytes: Buffer): string | undefined {
  for (let at = bytes.readUInt32BE(100); at + 8 <= bytes.length;) {
    const [type, length] = [bytes.readUInt32BE(at), bytes.readUInt32BE(at + 4)]
    if (type === 0) return undefined
    if (type === BACKING_FORMAT_EXTENSION) return bytes.toString('utf8', at + 8, at + 8 + length)
    at += 8 + Math.ceil(length / 8) * 8
  }
  return undefined
}
