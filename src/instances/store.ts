// Instances on disk and the index of them in memory: load, find, commit, replace a record, forget. Rules of the lifecycle are not here.

import path from 'node:path'
import type { Logger } from 'pino'
import { HypemanError } from '../api/errors.ts'
import type { Unreadable } from '../api/schemas/unreadable.ts'
import { byAge, readCollection } from '../files/collection.ts'
import { instanceFiles, type DataLayout } from '../files/layout.ts'
import { removeUnfinishedRecords, writeRecord } from '../files/stage.ts'
import { refuseForeignFiles } from '../files/tree.ts'
import { InstanceEntry } from './entry.ts'
import { afterChange } from './phases.ts'
import { instanceFormat, type InstanceRecord } from './record.ts'

export class InstanceStore {
  readonly #layout: DataLayout
  readonly #log: Logger
  readonly #entries = new Map<string, InstanceEntry>()
  /** Ids that hold each name, also of instances that are being made. Several only if somebody wrote records by hand. */
  readonly #names = new Map<string, readonly string[]>()
  readonly #unreadable = new Map<string, Unreadable>()

  constructor(layout: DataLayout, log: Logger) {
    this.#layout = layout
    this.#log = log
  }

  /** Reads every committed instance. `inspect` looks at the hypervisor's own files and tells whether they hold a complete memory image. */
  async load(inspect: (record: InstanceRecord, directory: string) => Promise<boolean>): Promise<void> {
    const options = { directory: this.#layout.instances, kind: 'instance', things: 'directories', log: this.#log } as const
    const { found, unreadable } = await readCollection(options, async (id, directory) => {
      refuseForeignFiles(directory)
      await removeUnfinishedRecords(directory)
      const record = await readInstanceRecord(directory)
      if (record.id !== id)
        throw new Error(`${directory} holds the record of the instance ${record.id}; move it to that name, or delete it`)
      return new InstanceEntry(record, await inspect(record, directory))
    })
    for (const [id, one] of unreadable) this.#unreadable.set(id, one)
    for (const entry of found.toSorted(({ record: one }, { record: other }) => byAge(one, other))) this.add(entry)
    for (const [name, ids] of this.#names)
      if (ids.length > 1) this.#log.error({ name, ids }, 'several instances have one name; they are found by their ids alone')
  }

  /** What lies among the instances and can't be read: reported, left alone until it is deleted, never a reason for a list to fail. */
  unreadable(): readonly Unreadable[] {
    return [...this.#unreadable.values()]
  }

  forgetUnreadable(id: string): void {
    this.#unreadable.delete(id)
  }

  entries(): IteratorObject<InstanceEntry, undefined> {
    return this.#entries.values()
  }

  byId(id: string): InstanceEntry | undefined {
    return this.#entries.get(id)
  }

  /** By exact id, exact name, or unique id prefix, in this order; `not_found` or `ambiguous` otherwise, `conflict` for one that can't be read. */
  find(ref: string): InstanceEntry {
    const [named, ...namesakes] = this.#names.get(ref) ?? []
    if (namesakes.length > 0 && !this.#entries.has(ref))
      throw new HypemanError('ambiguous', `the instances ${[named, ...namesakes].join(' and ')} have the name ${ref}; give an id`)
    const exact = this.#entries.get(ref) ?? this.#entries.get(named ?? '')
    if (exact !== undefined) return exact
    const unreadable = this.#unreadable.get(ref)
    if (unreadable !== undefined) throw new HypemanError('conflict', `the instance ${ref} can't be used: ${unreadable.reason}`)
    const matches = ref === '' ? [] : [...this.#entries.values()].filter((entry) => entry.id.startsWith(ref))
    const [match, ...others] = matches
    if (match === undefined) throw new HypemanError('not_found', `there is no instance ${JSON.stringify(ref)}; hypeman ps -a lists all`)
    if (others.length > 0)
      throw new HypemanError(
        'ambiguous',
        `${matches.length} instances have ids that begin with ${JSON.stringify(ref)}; give more of the id`,
      )
    return match
  }

  /** `name_conflict` if an instance has that name, or one in the making. */
  demandFreeName(name: string): void {
    const [holder] = this.#names.get(name) ?? []
    if (holder !== undefined)
      throw new HypemanError('name_conflict', `the name ${name} is taken by the instance ${holder}; choose another or delete that one`)
  }

  /** Takes a name for an instance in the making; disposing gives it back unless the instance was added since. */
  reserveName(name: string, id: string): Disposable {
    this.demandFreeName(name)
    this.#hold(name, id)
    return {
      [Symbol.dispose]: () => {
        if (!this.#entries.has(id)) this.#release(name, id)
      },
    }
  }

  /** Enters a committed instance into the index. */
  add(entry: InstanceEntry): void {
    this.#entries.set(entry.id, entry)
    this.#hold(entry.record.name, entry.id)
  }

  /** Changes an instance's record, durably, before the index shows it. Changes of one instance are applied in the order of the calls. */
  async update(entry: InstanceEntry, change: Partial<InstanceRecord>): Promise<void> {
    const write = async (): Promise<void> => {
      const changed = { ...entry.record, ...change }
      const record = { ...changed, phases: afterChange(changed, entry.holdsMemory, Date.now()) }
      await writeRecord(path.join(this.#layout.instance(entry.id), instanceFiles.record), record, entry.record)
      entry.record = record
    }
    const written = entry.writing.then(write, write)
    entry.writing = written
    await written
  }

  forget(entry: InstanceEntry): void {
    this.#entries.delete(entry.id)
    this.#release(entry.record.name, entry.id)
  }

  #hold(name: string, id: string): void {
    const ids = this.#names.get(name) ?? []
    if (!ids.includes(id)) this.#names.set(name, [...ids, id])
  }

  #release(name: string, id: string): void {
    const others = (this.#names.get(name) ?? []).filter((holder) => holder !== id)
    if (others.length > 0) this.#names.set(name, others)
    else this.#names.delete(name)
  }
}

/** Reads and checks the record of an instance directory. */
export function readInstanceRecord(directory: string): Promise<InstanceRecord> {
  return instanceFormat.read(path.join(directory, instanceFiles.record))
}
