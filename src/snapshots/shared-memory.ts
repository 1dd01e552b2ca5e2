// Which snapshots that are to be compressed share a memory file by hard links: together they can be compressed as if each had it for itself.

/** Of one snapshot: a memory file that lies there uncompressed. */
export interface MemoryName {
  readonly inode: string
  readonly name: string
  /** It lies there compressed as well. */
  readonly isCompressed: boolean
}

/** How many other snapshots name a file: all of them, and those that have it compressed. */
export interface OtherNames {
  readonly all: number
  readonly compressed: number
}

export class SharedMemory {
  readonly #byInode = new Map<string, Map<string, MemoryName>>()
  readonly #bySnapshot = new Map<string, readonly MemoryName[]>()

  /** What was seen of a snapshot, in place of what was seen before. */
  set(id: string, names: readonly MemoryName[]): void {
    this.forget(id)
    if (names.length > 0) this.#bySnapshot.set(id, names)
    for (const one of names) {
      const users = this.#byInode.get(one.inode) ?? new Map<string, MemoryName>()
      this.#byInode.set(one.inode, users.set(id, one))
    }
  }

  forget(id: string): void {
    for (const { inode } of this.#bySnapshot.get(id) ?? []) {
      const users = this.#byInode.get(inode)
      if (users?.delete(id) === true && users.size === 0) this.#byInode.delete(inode)
    }
    this.#bySnapshot.delete(id)
  }

  others(id: string, inode: string): OtherNames {
    const others = this.#others(id, inode)
    return { all: others.length, compressed: others.filter(([, { isCompressed }]) => isCompressed).length }
  }

  /** Snapshots that have the file compressed, with the name that it has there. */
  compressedElsewhere(id: string, inode: string): readonly { readonly id: string; readonly name: string }[] {
    return this.#others(id, inode).flatMap(([other, { name, isCompressed }]) => (isCompressed ? [{ id: other, name }] : []))
  }

  #others(id: string, inode: string): (readonly [id: string, name: MemoryName])[] {
    return [...(this.#byInode.get(inode) ?? [])].filter(([other]) => other !== id)
  }
}
