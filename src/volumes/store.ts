// Volumes on disk and their index in memory: load, find, reserve, add, forget. A volume exists if and only if its committed directory does.

import { readdir, readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import type { Logger } from 'pino'
import { HypemanError } from '../api/errors.ts'
import { volumeFiles, type DataLayout } from '../files/layout.ts'
import { parseRecordText } from '../files/record-text.ts'
import { messageOf } from '../platform/flow.ts'
import { GIB, volumeRecord, type VolumeRecord } from './record.ts'

export class VolumeStore {
  readonly #layout: DataLayout
  readonly #log: Logger
  readonly #records = new Map<string, VolumeRecord>()
  /** Ids and names that can't be taken, with whose they are; also of volumes in the making and of those that can't be read. */
  readonly #taken = new Map<string, string>()

  constructor(layout: DataLayout, log: Logger) {
    this.#layout = layout
    this.#log = log
  }

  /** Reads every committed volume; one that can't be read is reported and left alone. */
  async load(): Promise<void> {
    for (const id of await readdir(this.#layout.volumes)) {
      const directory = this.#layout.volume(id)
      try {
        this.add(await readVolume(directory, id))
      } catch (error) {
        this.#taken.set(id, `a volume that can't be read (${directory})`)
        this.#log.error({ directory, reason: messageOf(error) }, "a volume can't be read and is left alone")
      }
    }
  }

  /** Oldest first. */
  list(): VolumeRecord[] {
    return [...this.#records.values()].toSorted((a, b) => a.createdAt.localeCompare(b.createdAt) || a.id.localeCompare(b.id))
  }

  /** By exact id, then by exact name; `not_found` otherwise. */
  find(ref: string): VolumeRecord {
    const found = this.#records.get(ref) ?? this.#records.values().find((record) => record.name === ref)
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
  }
}

async function readVolume(directory: string, id: string): Promise<VolumeRecord> {
  const record = volumeRecord.parse(parseRecordText(await readFile(path.join(directory, volumeFiles.record), 'utf8')))
  if (record.id !== id) throw new Error(`the record names the volume ${record.id}`)
  const { size } = await stat(path.join(directory, volumeFiles.disk))
  if (size !== record.sizeGib * GIB) throw new Error(`${volumeFiles.disk} has ${size} bytes, not ${record.sizeGib} GiB`)
  return record
}
