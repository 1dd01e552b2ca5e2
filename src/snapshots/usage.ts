// What all snapshots together take on disk: each file once, however many snapshots and forks name it. A snapshot's files are looked at once, and again
// when they have changed, in the background; nothing is kept as long as nobody asks.

import { opendir, stat } from 'node:fs/promises'
import path from 'node:path'
import { snapshotFiles, type DataLayout } from '../files/layout.ts'
import { isMissing } from '../files/tree.ts'
import type { SnapshotRecord } from './record.ts'
import type { SnapshotStore } from './store.ts'

export interface SnapshotTotals {
  /** Bytes on disk, each file once. */
  readonly physicalBytes: number
  /** Snapshots that these bytes are of; others have not been looked at yet. */
  readonly measured: number
}

/** A file that is named by snapshots. */
interface SharedFile {
  readonly bytes: number
  names: number
}

export class SnapshotUsage {
  readonly #layout: DataLayout
  readonly #store: Pick<SnapshotStore, 'list' | 'byId'>
  /** Inodes by snapshot. All are on one filesystem. */
  readonly #seen = new Map<string, { readonly record: SnapshotRecord; readonly inodes: readonly number[] }>()
  readonly #files = new Map<number, SharedFile>()
  #bytes = 0

  constructor(layout: DataLayout, store: Pick<SnapshotStore, 'list' | 'byId'>) {
    this.#layout = layout
    this.#store = store
  }

  totals(): SnapshotTotals {
    return { physicalBytes: this.#bytes, measured: this.#seen.size }
  }

  /** Looks at the snapshots that are new or have changed, one after the other, and forgets those that are gone. */
  async refresh(signal: AbortSignal): Promise<void> {
    for (const [id, { record }] of this.#seen) if (this.#store.byId(id) !== record) this.#forget(id)
    for (const record of this.#store.list()) {
      signal.throwIfAborted()
      if (!this.#seen.has(record.id)) await this.#measure(record)
    }
  }

  async #measure(record: SnapshotRecord): Promise<void> {
    const directory = this.#layout.snapshot(record.id)
    const places = [snapshotFiles.payload, snapshotFiles.compressed].map((name) => filesIn(path.join(directory, name)))
    const files = (await Promise.all(places)).flat()
    // Deleted or changed meanwhile: what was seen is not the whole of it.
    if (this.#store.byId(record.id) !== record) return
    for (const { inode, bytes } of files) {
      const known = this.#files.get(inode)
      if (known !== undefined) known.names += 1
      else {
        this.#files.set(inode, { bytes, names: 1 })
        this.#bytes += bytes
      }
    }
    this.#seen.set(record.id, { record, inodes: files.map(({ inode }) => inode) })
  }

  #forget(id: string): void {
    for (const inode of this.#seen.get(id)?.inodes ?? []) {
      const file = this.#files.get(inode)
      if (file === undefined) continue
      file.names -= 1
      if (file.names > 0) continue
      this.#files.delete(inode)
      this.#bytes -= file.bytes
    }
    this.#seen.delete(id)
  }
}

async function filesIn(directory: string): Promise<{ readonly inode: number; readonly bytes: number }[]> {
  const found: { inode: number; bytes: number }[] = []
  try {
    for await (const entry of await opendir(directory)) {
      if (!entry.isFile()) continue
      const { ino, blocks } = await stat(path.join(directory, entry.name))
      found.push({ inode: ino, bytes: blocks * 512 })
    }
  } catch (error) {
    if (!isMissing(error)) throw error // else it is being deleted, has nothing compressed, or was lost: then it takes nothing
  }
  return found
}
