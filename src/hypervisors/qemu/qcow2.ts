// Writes an empty qcow2 overlay: what `qemu-img create -b` makes, without a process. Format: QEMU's docs/interop/qcow2.txt, version 3.
// Layout in clusters of 64 KiB: header, refcount table, one refcount block, L1 table. All numbers big-endian.

import { open } from 'node:fs/promises'
import path from 'node:path'
import { diskErrors } from '../../files/stage.ts'

const CLUSTER_BITS = 16
const CLUSTER = 1 << CLUSTER_BITS
const HEADER_BYTES = 104
/** Guest bytes that one L1 entry covers: an L2 table of one cluster of 8-byte entries. */
const BYTES_PER_L1_ENTRY = CLUSTER * (CLUSTER / 8)
const BACKING_FORMAT_EXTENSION = 0xe279_2aca

export interface Overlay {
  /** Path of the file to make. */
  readonly file: string
  /** Name of the backing file, relative to the overlay's directory, so that both can be linked elsewhere together. */
  readonly backing: string
  readonly backingFormat: 'raw' | 'qcow2'
  /** Size of the disk, in bytes. */
  readonly sizeBytes: number
}

export async function createOverlay(overlay: Overlay): Promise<void> {
  const l1Entries = Math.ceil(overlay.sizeBytes / BYTES_PER_L1_ENTRY)
  const l1Clusters = Math.ceil((l1Entries * 8) / CLUSTER)
  await diskErrors(overlay.file, async () => {
    await using file = await open(overlay.file, 'wx', 0o600)
    await file.write(header(overlay, l1Entries), 0, undefined, 0)
    const tableEntry = Buffer.alloc(8)
    tableEntry.writeBigUInt64BE(BigInt(2 * CLUSTER))
    await file.write(tableEntry, 0, undefined, CLUSTER)
    const refcounts = Buffer.alloc((3 + l1Clusters) * 2)
    for (let cluster = 0; cluster < 3 + l1Clusters; cluster += 1) refcounts.writeUInt16BE(1, cluster * 2)
    await file.write(refcounts, 0, undefined, 2 * CLUSTER)
    await file.truncate((3 + l1Clusters) * CLUSTER)
  })
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

/** The disk size that a qcow2 file's header gives, in bytes. */
export async function overlaySize(file: string): Promise<number> {
  await using handle = await open(file, 'r')
  const { buffer, bytesRead } = await handle.read(Buffer.alloc(32), 0, 32, 0)
  if (bytesRead < 32 || buffer.readUInt32BE(0) !== 0x5146_49fb) throw new Error(`${path.basename(file)} is not a qcow2 file`)
  return Number(buffer.readBigUInt64BE(24))
}
