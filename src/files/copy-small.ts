// Copies a small file between open files by Node's own reads and writes. Large ones: copy-job.ts.

import type { FileHandle } from 'node:fs/promises'
import { changed, piecesToCopy, type OpenFile } from './copy-extents.ts'
import type { Watch } from './copy-job.ts'
import { writeFully } from './memory-image/private-pages.ts'

const BUFFER_BYTES = 1024 ** 2

interface HeldFile extends OpenFile {
  readonly handle: FileHandle
}

export async function copySmall(from: HeldFile, to: HeldFile, { signal, copied }: Watch): Promise<void> {
  const buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES)
  for (const piece of piecesToCopy(from, to))
    for (let at = piece.from; at < piece.to;) {
      signal?.throwIfAborted()
      const { bytesRead } = await from.handle.read(buffer, 0, Math.min(buffer.length, piece.to - at), at)
      if (bytesRead === 0) throw changed(from.path)
      await writeFully(to.handle, buffer.subarray(0, bytesRead), at)
      copied(bytesRead)
      at += bytesRead
    }
}
