// The guest's memory as a file: everything, or what was written since it was last saved. It is read out of QEMU's process, which maps the file that it started from privately.

import { createHash } from 'node:crypto'
import { open, readlink, type FileHandle } from 'node:fs/promises'
import path from 'node:path'
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

/** A stretch of memory that is mapped from a file of its own. */
export interface MemoryPart {
  /** What the process maps, open; it may have lost its name since. */
  readonly base: FileHandle
  readonly bytes: number
  /** Nobody else maps the file: all of it counts as the process's own. */
  readonly isOwn: boolean
}

/** Parts lie one behind the other in every file; more may come at the end of the list while the guest runs. */
export function guestMemory(pid: number, parts: readonly MemoryPart[]): GuestMemory {
  const known = new Map<MemoryPart, SavedPart>()
  const save = async (file: string, write: (part: SavedPart, target: FileHandle, offset: number) => Promise<void>): Promise<void> => {
    await using target = await open(file, 'w', 0o600)
    await target.truncate(parts.reduce((sum, { bytes }) => sum + bytes, 0))
    let offset = 0
    for (const part of parts) {
      const saved = known.get(part) ?? savedPart(pid, part)
      known.set(part, saved)
      await write(saved, target, offset)
      offset += part.bytes
    }
  }
  const all = async (saved: SavedPart, target: FileHandle, offset: number): Promise<void> => {
    const { base, bytes } = saved.part
    await copyData(base, bytes, target, 'memory', offset)
    const isHoles = (await base.stat()).blocks === 0
    await saved.writePages(target, offset, (page) => !isHoles || !page.equals(zeroPage))
  }
  return {
    saveAll: (file) => save(file, all),
    saveOwn: (file) =>
      save(file, (saved, target, offset) => (saved.part.isOwn ? all(saved, target, offset) : saved.writePages(target, offset, () => true))),
    saveChanges: (file) => save(file, (saved, target, offset) => saved.writePages(target, offset, (_page, changed) => changed)),
  }
}

interface SavedPart {
  readonly part: MemoryPart
  /** Writes the pages of the process's own that are wanted; `changed` tells those that differ from the last time. */
  writePages(target: FileHandle, offset: number, wanted: (page: Buffer, changed: boolean) => boolean): Promise<void>
}

function savedPart(pid: number, part: MemoryPart): SavedPart {
  const { base, bytes } = part
  /** What each page of the process's own was when memory was last saved. */
  let seen = new Map<number, string>()

  const mapping = async (): Promise<Mapping> => {
    const name = path.basename(await readlink(`/proc/self/fd/${base.fd}`)).replace(/ \(deleted\)$/, '')
    const found = await findMapping(pid, new RegExp(`^${name.replaceAll('.', String.raw`\.`)}$`), bytes)
    if (found.inode !== String((await base.stat()).ino)) throw new Error('QEMU maps another file than that of its memory')
    return found
  }

  const writePages: SavedPart['writePages'] = async (target, offset, wanted) => {
    const now = new Map<number, string>()
    const where = await mapping()
    for await (const { page, data } of readPages(where, await privatePages(where))) {
      let from = -1
      for (let at = 0; at <= data.length; at += pageBytes) {
        const isWanted = at < data.length && look(now, page + at / pageBytes, data.subarray(at, at + pageBytes), wanted)
        if (isWanted && from < 0) from = at
        if (isWanted || from < 0) continue
        await writeFully(target, data.subarray(from, at), offset + page * pageBytes + from)
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

  return { part, writePages }
}

/** The stretches of a file that are no holes, from `skip` on, to another `offset` in the target. */
export async function copyData(base: FileHandle, bytes: number, target: FileHandle, file: string, offset = 0, skip = 0): Promise<void> {
  const buffer = Buffer.alloc(COPY_BYTES)
  for (const { from: begin, to } of extentsOf(base.fd, bytes, file)) {
    const from = Math.max(begin, skip)
    for (let at = from; at < to;) {
      const { bytesRead } = await base.read(buffer, 0, Math.min(COPY_BYTES, to - at), at)
      if (bytesRead === 0) throw new Error('the memory file is shorter than memory')
      await writeFully(target, buffer.subarray(0, bytesRead), at - skip + offset)
      at += bytesRead
    }
  }
}
