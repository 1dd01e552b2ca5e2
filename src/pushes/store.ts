// Pushes on disk and their index in memory. Those that have ended are kept for whoever asks how, up to a number.

import path from 'node:path'
import type { Logger } from 'pino'
import type { Unreadable } from '../api/schemas/unreadable.ts'
import { byAge, readCollection } from '../files/collection.ts'
import type { DataLayout } from '../files/layout.ts'
import { moveToTrash, removeUnfinishedRecords, writeRecord } from '../files/stage.ts'
import { pushFormat, type PushRecord } from './record.ts'

/** How many pushes that have ended are kept; then the oldest goes. */
export const ENDED_KEPT = 100

export class PushStore {
  readonly #layout: DataLayout
  readonly #log: Logger
  readonly #records = new Map<string, PushRecord>()
  #unreadable: readonly Unreadable[] = []

  constructor(layout: DataLayout, log: Logger) {
    this.#layout = layout
    this.#log = log
  }

  /** Reads every record; one that can't be read is reported and left alone. */
  async load(): Promise<void> {
    await removeUnfinishedRecords(this.#layout.pushes)
    const options = { directory: this.#layout.pushes, kind: 'push', things: 'files', log: this.#log } as const
    const { found, unreadable } = await readCollection(options, async (name, file) => {
      const record = await pushFormat.read(file)
      if (name !== path.basename(this.#layout.push(record.id)))
        throw new Error(`${file} holds the push ${record.id}; move it to that name, or delete it`)
      return record
    })
    for (const record of found) this.#records.set(record.id, record)
    this.#unreadable = [...unreadable.values()].map((one) => ({ ...one, id: path.basename(one.id, '.json') }))
  }

  unreadable(): readonly Unreadable[] {
    return this.#unreadable
  }

  byId(id: string): PushRecord | undefined {
    return this.#records.get(id)
  }

  /** Oldest first. */
  list(): readonly PushRecord[] {
    return [...this.#records.values()].toSorted(byAge)
  }

  /** Durable when it returns, and only then in the index. */
  async add(record: PushRecord): Promise<void> {
    await writeRecord(this.#layout.push(record.id), record, null)
    this.#records.set(record.id, record)
  }

  /** From the call on nobody finds it. One that isn't there is no error. */
  async drop(id: string): Promise<void> {
    this.#records.delete(id)
    await moveToTrash(this.#layout, this.#layout.push(id))
  }

  /** Shows how a push ended, which is so whether it can be written or not. What comes back writes it. */
  end(record: PushRecord): () => Promise<void> {
    const before = this.#records.get(record.id) ?? null
    this.#records.set(record.id, record)
    return () => writeRecord(this.#layout.push(record.id), record, before)
  }

  /** Removes the records of pushes that ended long ago. */
  async dropOld(): Promise<void> {
    const endOf = ({ completedAt, createdAt }: PushRecord): string => completedAt ?? createdAt
    const ended = this.list()
      .filter(({ status }) => status !== 'unfinished')
      .toSorted((one, other) => endOf(one).localeCompare(endOf(other)))
    for (const { id } of ended.slice(0, Math.max(0, ended.length - ENDED_KEPT))) await this.drop(id)
  }
}
