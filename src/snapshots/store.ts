// Snapshots on disk and their index in memory: load, find, add, forget. A snapshot exists if and only if its committed directory does.

import { readdir, readFile } from 'node:fs/promises'
import path from 'node:path'
import type { Logger } from 'pino'
import { HypemanError } from '../api/errors.ts'
import { snapshotFiles, type DataLayout } from '../files/layout.ts'
import { parseRecordText } from '../files/record-text.ts'
import { snapshotRecord, type SnapshotRecord } from './record.ts'

export interface SnapshotFilter {
  readonly sourceInstanceId?: string | undefined
  readonly kind?: 'Standby' | 'Stopped' | undefined
  readonly name?: string | undefined
  readonly tags?: Readonly<Record<string, string>> | undefined
}

export class SnapshotStore {
  readonly #layout: DataLayout
  readonly #log: Logger
  readonly #records = new Map<string, SnapshotRecord>()
  /** Snapshots whose record can't be read, with the reason, by id: they are left alone, and can only be verified. */
  readonly unreadable = new Map<string, string>()
  /** Names taken, per source: `<instance id>/<name>`; also of snapshots in the making. */
  readonly #names = new Map<string, string>()

  constructor(layout: DataLayout, log: Logger) {
    this.#layout = layout
    this.#log = log
  }

  /** Reads every committed snapshot; one that can't be read is reported and left alone. */
  async load(): Promise<void> {
    const records: SnapshotRecord[] = []
    for (const id of await readdir(this.#layout.snapshots)) {
      const file = path.join(this.#layout.snapshot(id), snapshotFiles.record)
      try {
        const record = snapshotRecord.parse(parseRecordText(await readFile(file, 'utf8')))
        if (record.id !== id) throw new Error(`the record names the snapshot ${record.id}`)
        records.push(record)
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error)
        this.unreadable.set(id, reason)
        this.#log.error({ file, reason }, "a snapshot can't be read and is left alone; hypeman snapshot verify says what is wrong with it")
      }
    }
    for (const record of records.toSorted((one, other) => one.createdAt.localeCompare(other.createdAt))) this.add(record)
  }

  /** Newest last. */
  list(filter: SnapshotFilter = {}): SnapshotRecord[] {
    const tags = Object.entries(filter.tags ?? {})
    return [...this.#records.values()].filter(
      (record) =>
        (filter.sourceInstanceId === undefined || record.sourceInstanceId === filter.sourceInstanceId) &&
        (filter.kind === undefined || record.kind === filter.kind) &&
        (filter.name === undefined || record.name === filter.name) &&
        tags.every(([key, value]) => record.tags[key] === value),
    )
  }

  byId(id: string): SnapshotRecord | undefined {
    return this.#records.get(id)
  }

  /** By exact id or unique id prefix; `not_found` or `ambiguous` otherwise. */
  find(ref: string): SnapshotRecord {
    const exact = this.#records.get(ref)
    if (exact !== undefined) return exact
    const matches = ref === '' ? [] : [...this.#records.values()].filter((record) => record.id.startsWith(ref))
    const [match, ...others] = matches
    if (match === undefined)
      throw new HypemanError('not_found', `there is no snapshot ${JSON.stringify(ref)}; hypeman snapshot list shows all`)
    if (others.length > 0)
      throw new HypemanError(
        'ambiguous',
        `${matches.length} snapshots have ids that begin with ${JSON.stringify(ref)}; give more of the id`,
      )
    return match
  }

  /** Takes a name under a source for a snapshot in the making; disposing gives it back unless the snapshot was added since. The empty name is never taken. */
  reserveName(sourceInstanceId: string, name: string, id: string): Disposable {
    if (name === '') return { [Symbol.dispose]: () => undefined }
    const key = `${sourceInstanceId}/${name}`
    const holder = this.#names.get(key)
    if (holder !== undefined)
      throw new HypemanError(
        'conflict',
        `the snapshot ${holder} of this instance has the name ${name} already; choose another or delete that one`,
      )
    this.#names.set(key, id)
    return {
      [Symbol.dispose]: () => {
        if (!this.#records.has(id) && this.#names.get(key) === id) this.#names.delete(key)
      },
    }
  }

  add(record: SnapshotRecord): void {
    this.#records.set(record.id, record)
    if (record.name !== '') this.#names.set(`${record.sourceInstanceId}/${record.name}`, record.id)
  }

  forget(record: SnapshotRecord): void {
    this.#records.delete(record.id)
    const key = `${record.sourceInstanceId}/${record.name}`
    if (this.#names.get(key) === record.id) this.#names.delete(key)
  }
}
