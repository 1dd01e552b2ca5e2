// The guest's memory as a file: everything, or what was written since it was last saved. It is read out of QEMU's process, which maps the file that it started from privately.

import { createHash } from 'node:crypto'
import { open, type FileHandle } from 'node:fs/promises'
import { extentsOf } from '../../src/files/extents.ts'
import { findMapping, pageBytes, privatePages, readPages, writeFully, type Mapping } from '../../src/files/memory-image/private-pages.ts'

export interface GuestMemory {
  /** Writes all of memory into a sparse file of its size; a file that is there is replaced. The guest must stand still. */
  saveAll(file: string): Promise<void>
  /** Writes, into a sparse file of memory's size, the pages that were written since memory was last saved or loaded; everything else is a hole. */
  saveChanges(file: string): Promise<void>
  /** The same with all that was written since it was started. */
  saveOwn(file: string): Promise<void>
}

const COPY_BYTES = 1024 ** 2
const zeroPage = Buffer.alloc(pageBytes)

/** `base` is the file that the process was started with, open; it may have lost its name since. */
export function guestMemory(pid: number, base: FileHandle, bytes: number): GuestMemory {
  /** What each page of the process's own was when memory was last saved. */
  let seen = new Map<number, string>()

  const mapping = async (): Promise<Mapping> => {
    const found = await findMapping(pid, /./, bytes)
    if (found.inode !== String((await base.stat()).ino)) throw new Error('QEMU maps another file than that of its memory')
    return found
  }

  /** Writes the pages of the process's own that are wanted; `changed` tells those that differ from the last time. */
  const writePages = async (target: FileHandle, wanted: (page: Buffer, changed: boolean) => boolean): Promise<void> => {
    const now = new Map<number, string>()
    const where = await mapping()
    for await (const { page, data } of readPages(where, await privatePages(where))) {
      let from = -1
      for (let at = 0; at <= data.length; at += pageBytes) {
        const isWanted = at < data.length && look(now, page + at / pageBytes, data.subarray(at, at + pageBytes), wanted)
        if (isWanted && from < 0) from = at
        if (isWanted || from < 0) continue
        await writeFully(target, data.subarray(from, at), page * pageBytes + from)
        from = -1
      }
    }
    seen = now
  }

  const look = (now: Map<number, string>, number: number, page: Buffer, wanted: (page: Buffer, changed: boolean) => boolean): boolean => {
    const digest = createHash('sha1').update(page).digest('latin1')
    now.set(number, digest)
    return wanted(page, seen.get(number) !== digest)
  }

  return {
    async saveAll(file) {
      await using target = await open(file, 'w', 0o600)
      await target.truncate(bytes)
      await copyData(base, bytes, target, file)
      const isHoles = (await base.stat()).blocks === 0
      await writePages(target, (page) => !isHoles || !page.equals(zeroPage))
    },
    async saveOwn(file) {
      await using target = await open(file, 'w', 0o600)
      await target.truncate(bytes)
      await writePages(target, () => true)
    },
    async saveChanges(file) {
      await using target = await open(file, 'w', 0o600)
      await target.truncate(bytes)
      await writePages(target, (_page, changed) => changed)
    },
  }
}

/** The stretches of a file that are no holes. */
export async function copyData(base: FileHandle, bytes: number, target: FileHandle, file: string): Promise<void> {
  const buffer = Buffer.alloc(COPY_BYTES)
  for (const { from, to } of extentsOf(base.fd, bytes, file))
    for (let at = from; at < to;) {
      const { bytesRead } = await base.read(buffer, 0, Math.min(COPY_BYTES, to - at), at)
      if (bytesRead === 0) throw new Error('the memory file is shorter than memory')
      await writeFully(target, buffer.subarray(0, bytesRead), at)
      at += bytesRead
    }
}
