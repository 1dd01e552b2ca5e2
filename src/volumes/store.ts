// Volumes on disk and their index in memory: load, find, reserve, add, forget. A volume exists if and only if its committed directory does.

import { lstat } from 'node:fs/promises'
import path from 'node:path'
import type { Logger } from 'pino'
import { HypemanError } from '../api/errors.ts'
import type { Unreadable } from '../api/schemas/unreadable.ts'
import { readCollection } from '../files/collection.ts'
import { volumeFiles, type DataLayout } from '../files/layout.ts'
import { refuseForeignFiles } from '../files/tree.ts'
import { GIB, volumeFormat, type VolumeRecord } from './record.ts'

export class VolumeStore {
  readonly #layout: DataLayout
  readonly #log: Logger
  readonly #records = new Map<string, VolumeRecord>()
  /** Ids and names that can't be taken, with whose they are; also of volumes in the making and of those that can't be read. */
  readonly #taken = new Map<string, string>()
  readonly #unreadable = new Map<string, Unreadable>()

  constructor(layout: DataLayout, log: Logger) {
    this.#layout = layout
    this.#log = log
  }

  /** Reads every committed volume; one that can't be read is reported and left alone. */
  async load(): Promise<void> {
    const options = { directory: this.#layout.volumes, kind: 'volume', things: 'directories', log: this.#log } as const
    const { found, unreadable } = await readCollection(options, readVolume)
    for (const record of found) this.add(record)
    for (const [id, one] of unreadable) {
      this.#unreadable.set(id, one)
      this.#taken.set(id, `a volume that can't be read (${one.path})`)
    }
  }

  /** What lies among the volumes and can't be read: reported, left alone until it is deleted. */
  unreadable(): readonly Unreadable[] {
    return [...this.#unreadable.values()]
  }

  forgetUnreadable(id: string): void {
    this.#unreadable.delete(id)
    this.#taken.delete(id)
  }

  /** Oldest first. */
  list(): VolumeRecord[] {
    return [...this.#records.values()].toSorted((a, b) => a.createdAt.localeCompare(b.createdAt) || a.id.localeCompare(b.id))
  }

  /** By exact id, then by exact name; `not_found` otherwise, `conflict` for one that can't be read, `ambiguous` where records were written by hand. */
  find(ref: string): VolumeRecord {
    const byId = this.#records.get(ref)
    const [byName, ...namesakes] = byId === undefined ? this.list().filter((record) => record.name === ref) : []
    if (byName !== undefined && namesakes.length > 0)
      throw new HypemanError(
        'ambiguous',
        `the volumes ${[byName, ...namesakes].map(({ id }) => id).join(' and ')} have the name ${ref}; give an id`,
      )
    const unreadable = this.#unreadable.get(ref)
    if (unreadable !== undefined) throw new HypemanError('conflict', `the volume ${ref} can't be used: ${unreadable.reason}`)
    const found = byId ?? byName
    if (found === undefined) throw new HypemanError('not_found', `there is no volume ${JSON.stringify(ref)}; hypeman volume list shows all`)
    return found
  }

  byId(id: string): VolumeRecord | undefined {
    return this.#records.get(id)
  }

  /** Takes id and name for a volume in the making; disposing gives them back unless it was added since. Both are unique, also against each other, so that a reference means one volume. */
  reserve(id: string, name: string): Disposable {
    for (const [what, key] of [['id', id] as const, ['name', name] as const]) {
      const holder = this.#taken.get(key)
      if (holder !== undefined)
        throw new HypemanError('already_exists', `the ${what} ${key} is taken by ${holder}; choose another or delete that one`)
    }
    const keys = new Set([id, name])
    for (const key of keys) this.#taken.set(key, `the volume ${name} (${id})`)
    return {
      [Symbol.dispose]: () => {
        if (!this.#records.has(id)) for (const key of keys) this.#taken.delete(key)
      },
    }
  }

  add(record: VolumeRecord): void {
    this.#records.set(record.id, record)
    for (const key of [record.id, record.name]) this.#taken.set(key, `the volume ${record.name} (${record.id})`)
  }

  forget(record: VolumeRecord): void {
    this.#records.delete(record.id)
    for (const key of [record.id, record.name]) this.#taken.delete(key)
    const namesake = this.#records.values().find((other) => other.name === record.name)
    if (namesake !== undefined) this.add(namesake)
  }
}

async function readVolume(id: string, directory: string): Promise<VolumeRecord> {
  refuseForeignFiles(directory)
  const record = await volumeFormat.read(path.join(directory, volumeFiles.record))
  if (record.id !== id) throw new Error(`${directory} holds the record of the volume ${record.id}; move it to that name, or delete it`)
  const disk = path.join(directory, volumeFiles.disk)
  const { size } = await lstat(disk)
  if (size !== record.sizeGib * GIB)
    throw new Error(`${disk} has ${size} bytes, not ${record.sizeGib} GiB; put a good copy back, or delete the volume`)
  return record
}
