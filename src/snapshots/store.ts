// Snapshots on disk and their index in memory: load, find, add, forget. A snapshot exists if and only if its committed directory does.

import path from 'node:path'
import type { Logger } from 'pino'
import { HypemanError } from '../api/errors.ts'
import type { Unreadable } from '../api/schemas/unreadable.ts'
import { byAge, readCollection } from '../files/collection.ts'
import { snapshotFiles, type DataLayout } from '../files/layout.ts'
import { snapshotFormat, type SnapshotRecord } from './record.ts'

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
  /** What lies among the snapshots and can't be read, by id: left alone, and can only be verified and deleted. */
  readonly unreadable = new Map<string, Unreadable>()
  /** Names taken, per source: `<instance id>/<name>`; also of snapshots in the making. */
  readonly #names = new Map<string, string>()
  /** Ids of those that schedules took, per source. */
  readonly #scheduled = new Map<string, Set<string>>()

  constructor(layout: DataLayout, log: Logger) {
    this.#layout = layout
    this.#log = log
  }

  /** Reads every committed snapshot; one that can't be read is reported and left alone. */
  async load(): Promise<void> {
    const options = { directory: this.#layout.snapshots, kind: 'snapshot', things: 'directories', log: this.#log } as const
    const { found, unreadable } = await readCollection(options, async (id, directory) => {
      const record = await snapshotFormat.read(path.join(directory, snapshotFiles.record))
      if (record.id !== id)
        throw new Error(`${directory} holds the record of the snapshot ${record.id}; move it to that name, or delete it`)
      return record
    })
    for (const [id, one] of unreadable) this.unreadable.set(id, one)
    for (const record of found.toSorted(byAge)) this.add(record)
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

  /** Those that the schedule of an instance took. */
  scheduledOf(sourceInstanceId: string): SnapshotRecord[] {
    return [...(this.#scheduled.get(sourceInstanceId) ?? [])].flatMap((id) => this.#records.get(id) ?? [])
  }

  byId(id: string): SnapshotRecord | undefined {
    return this.#records.get(id)
  }

  /** By exact id or unique id prefix; `not_found` or `ambiguous` otherwise, `conflict` for one that can't be read. */
  find(ref: string): SnapshotRecord {
    const exact = this.#records.get(ref)
    if (exact !== undefined) return exact
    const unreadable = this.unreadable.get(ref)
    if (unreadable !== undefined) throw new HypemanError('conflict', `the snapshot ${ref} can't be used: ${unreadable.reason}`)
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
    if (!record.scheduled) return
    const siblings = this.#scheduled.get(record.sourceInstanceId) ?? new Set()
    this.#scheduled.set(record.sourceInstanceId, siblings.add(record.id))
  }

  /** Its files have changed: another object stands for it from now on, so that whoever keeps what was seen of it looks again. */
  renew(id: string): void {
    const record = this.#records.get(id)
    if (record !== undefined) this.#records.set(id, { ...record })
  }

  forget(record: SnapshotRecord): void {
    this.#records.delete(record.id)
    const siblings = this.#scheduled.get(record.sourceInstanceId)
    if (siblings?.delete(record.id) === true && siblings.size === 0) this.#scheduled.delete(record.sourceInstanceId)
    const key = `${record.sourceInstanceId}/${record.name}`
    if (this.#names.get(key) !== record.id) return
    this.#names.delete(key)
    // Somebody who writes records by hand may give two the same name: the other holds it now.
    const namesake = this.#records.values().find((other) => `${other.sourceInstanceId}/${other.name}` === key)
    if (namesake !== undefined) this.add(namesake)
  }
}
