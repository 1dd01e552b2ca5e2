// Instances on disk and the index of them in memory: load, find, commit, replace a record, forget. Rules of the lifecycle are not here.

import { readdir, readFile } from 'node:fs/promises'
import path from 'node:path'
import type { Logger } from 'pino'
import { HypemanError } from '../api/errors.ts'
import { instanceFiles, type DataLayout } from '../files/layout.ts'
import { parseRecordText } from '../files/record-text.ts'
import { removeUnfinishedRecords, writeRecord } from '../files/stage.ts'
import { InstanceEntry } from './entry.ts'
import { instanceRecord, type InstanceRecord } from './record.ts'

/** A directory under `instances/` whose record can't be read: reported, left alone, never a reason for a list to fail. */
export interface BrokenInstance {
  readonly directory: string
  readonly error: string
}

export class InstanceStore {
  readonly #layout: DataLayout
  readonly #log: Logger
  readonly #entries = new Map<string, InstanceEntry>()
  /** Names taken, also by instances that are being made. */
  readonly #names = new Map<string, string>()
  readonly broken: BrokenInstance[] = []

  constructor(layout: DataLayout, log: Logger) {
    this.#layout = layout
    this.#log = log
  }

  /** Reads every committed instance. `holdsMemory` tells whether a directory has a complete memory image. */
  async load(holdsMemory: (record: InstanceRecord, directory: string) => Promise<boolean>): Promise<void> {
    const found: InstanceEntry[] = []
    for (const id of await readdir(this.#layout.instances)) {
      const directory = this.#layout.instance(id)
      try {
        await removeUnfinishedRecords(directory)
        const record = await readInstanceRecord(directory)
        if (record.id !== id) throw new Error(`the record names the instance ${record.id}`)
        found.push(new InstanceEntry(record, await holdsMemory(record, directory)))
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error)
        this.broken.push({ directory, error: reason })
        this.#log.error({ directory, reason }, "an instance can't be read and is left alone")
      }
    }
    for (const entry of found.toSorted((one, other) => one.record.createdAt.localeCompare(other.record.createdAt))) this.add(entry)
  }

  entries(): IteratorObject<InstanceEntry, undefined> {
    return this.#entries.values()
  }

  byId(id: string): InstanceEntry | undefined {
    return this.#entries.get(id)
  }

  /** By exact id, exact name, or unique id prefix, in this order; `not_found` or `ambiguous` otherwise. */
  find(ref: string): InstanceEntry {
    const exact = this.#entries.get(ref) ?? this.#entries.get(this.#names.get(ref) ?? '')
    if (exact !== undefined) return exact
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

  /** Takes a name for an instance in the making; disposing gives it back unless the instance was added since. */
  reserveName(name: string, id: string): Disposable {
    const holder = this.#names.get(name)
    if (holder !== undefined)
      throw new HypemanError('name_conflict', `the name ${name} is taken by the instance ${holder}; choose another or delete that one`)
    this.#names.set(name, id)
    return {
      [Symbol.dispose]: () => {
        if (!this.#entries.has(id) && this.#names.get(name) === id) this.#names.delete(name)
      },
    }
  }

  /** Enters a committed instance into the index. */
  add(entry: InstanceEntry): void {
    this.#entries.set(entry.id, entry)
    this.#names.set(entry.record.name, entry.id)
  }

  /** Changes an instance's record, durably, before the index shows it. Changes of one instance are applied in the order of the calls. */
  async update(entry: InstanceEntry, change: Partial<InstanceRecord>): Promise<void> {
    const write = async (): Promise<void> => {
      const record = { ...entry.record, ...change }
      await writeRecord(path.join(this.#layout.instance(entry.id), instanceFiles.record), record)
      entry.record = record
    }
    const written = entry.writing.then(write, write)
    entry.writing = written
    await written
  }

  forget(entry: InstanceEntry): void {
    this.#entries.delete(entry.id)
    if (this.#names.get(entry.record.name) === entry.id) this.#names.delete(entry.record.name)
  }
}

/** Reads and checks the record of an instance directory. */
export async function readInstanceRecord(directory: string): Promise<InstanceRecord> {
  const parsed = instanceRecord.safeParse(parseRecordText(await readFile(path.join(directory, instanceFiles.record), 'utf8')))
  if (!parsed.success)
    throw new Error(
      `${instanceFiles.record} is not a record of this version: ${parsed.error.issues.map((issue) => `${issue.path.join('.')} ${issue.message}`).join(', ')}`,
    )
  return parsed.data
}
