// The log of a recorded disk: what was written to it, and when it was told to keep what it has (sync). An entry is a header of 16 bytes
// (offset, length, kind) and the bytes of a write.

import { openSync, readSync, fstatSync, closeSync } from 'node:fs'

const HEADER = 16
const kinds = { write: 1, sync: 2 } as const

/** One write to the disk. All in bytes. */
export interface LoggedWrite {
  /** Where on the disk. */
  readonly at: number
  readonly length: number
  /** Where in the log its bytes are. */
  readonly from: number
}

/** What happened between two syncs. A disk may lose any part of the writes while their sync has not ended, and none afterwards. */
export interface Epoch {
  readonly writes: readonly LoggedWrite[]
  /** Length of the log when the last of them was in it. */
  readonly written: number
  /** Length of the log when the sync that ends it was in it; of the whole log for the last one, which no sync ended. */
  readonly end: number
}

/** The header of an entry. */
export function logEntry(kind: keyof typeof kinds, at: number, length: number): Buffer {
  const header = Buffer.alloc(HEADER)
  header.writeBigUInt64LE(BigInt(at), 0)
  header.writeUInt32LE(length, 8)
  header.writeUInt32LE(kinds[kind], 12)
  return header
}

/** Reads a log that nobody writes to any more. */
export function readLog(file: string): readonly Epoch[] {
  const log = openSync(file, 'r')
  try {
    const { size } = fstatSync(log)
    const epochs: Epoch[] = []
    let writes: LoggedWrite[] = []
    const header = Buffer.alloc(HEADER)
    for (let position = 0; position < size;) {
      readSync(log, header, 0, HEADER, position)
      const [at, length, kind] = [Number(header.readBigUInt64LE(0)), header.readUInt32LE(8), header.readUInt32LE(12)]
      position += HEADER
      if (kind === kinds.write) {
        writes.push({ at, length, from: position })
        position += length
      } else if (kind === kinds.sync) {
        epochs.push({ writes, written: position - HEADER, end: position })
        writes = []
      } else throw new Error(`the write log has an entry of kind ${kind} at ${position - HEADER}`)
    }
    return [...epochs, { writes, written: size, end: size }]
  } finally {
    closeSync(log)
  }
}
