// Schedules on disk and their index in memory: load, find, change, remove. A schedule exists if and only if its record does.

import path from 'node:path'
import type { Unreadable } from '../api/schemas/unreadable.ts'
import { readCollection } from '../files/collection.ts'
import type { DataLayout } from '../files/layout.ts'
import { moveToTrash, removeUnfinishedRecords, writeRecord } from '../files/stage.ts'
import { loggedFlow, step, type FlowHost, type OpenFlow } from '../platform/flow.ts'
import { scheduleFormat, type ScheduleRecord } from './record.ts'

export class ScheduleStore {
  readonly #layout: DataLayout
  readonly #host: FlowHost
  readonly #records = new Map<string, ScheduleRecord>()
  readonly #unreadable = new Map<string, Unreadable>()
  /** The last change of each schedule that is not done yet. */
  readonly #writing = new Map<string, Promise<unknown>>()

  constructor(layout: DataLayout, host: FlowHost) {
    this.#layout = layout
    this.#host = host
  }

  /** Reads every schedule; one that can't be read is reported and left alone. */
  async load(): Promise<void> {
    await removeUnfinishedRecords(this.#layout.schedules)
    const options = { directory: this.#layout.schedules, kind: 'snapshot schedule', things: 'files', log: this.#host.log } as const
    const { found, unreadable } = await readCollection(options, async (name, file) => {
      const record = await scheduleFormat.read(file)
      if (name !== path.basename(this.#layout.schedule(record.instanceId)))
        throw new Error(`${file} holds the schedule of the instance ${record.instanceId}; move it to that name, or delete it`)
      return record
    })
    for (const record of found) this.#records.set(record.instanceId, record)
    for (const [name, one] of unreadable) {
      const id = path.basename(name, '.json')
      this.#unreadable.set(id, { ...one, id })
    }
  }

  list(): readonly ScheduleRecord[] {
    return [...this.#records.values()]
  }

  byInstance(instanceId: string): ScheduleRecord | undefined {
    return this.#records.get(instanceId)
  }

  /** What lies among the schedules and can't be read, by the id of its instance: left alone until it is removed. */
  unreadable(): ReadonlyMap<string, Unreadable> {
    return this.#unreadable
  }

  /** Changes or makes a schedule, durably, before the index shows it. Changes of one schedule are made one after another. */
  change(instanceId: string, flow: string, change: (present: ScheduleRecord | undefined) => ScheduleRecord): Promise<ScheduleRecord> {
    return this.#inTurn(instanceId, async () => {
      const before = this.#records.get(instanceId)
      const after = change(before)
      await this.#write(flow, after, before)
      return after
    })
  }

  /** For what has happened in any case: the index shows it even if it can't be written, in which case this throws and the next change writes it. */
  note(instanceId: string, flow: string, change: (present: ScheduleRecord) => ScheduleRecord): Promise<void> {
    return this.#inTurn(instanceId, async () => {
      const before = this.#records.get(instanceId)
      if (before === undefined) return
      const after = change(before)
      this.#records.set(instanceId, after)
      await this.#write(flow, after, before)
    })
  }

  /** Removes a schedule, also one that can't be read; `onlyIf` is asked when nothing else happens to it. */
  remove(instanceId: string, flow: string, onlyIf: () => boolean = () => true): Promise<void> {
    return this.#inTurn(instanceId, async () => {
      if (!onlyIf()) return
      const file = this.#unreadable.get(instanceId)?.path ?? this.#layout.schedule(instanceId)
      using removal = this.#begin(instanceId, flow)
      await step(removal, 'remove', async () => {
        await moveToTrash(this.#layout, file)
        this.#records.delete(instanceId)
        this.#unreadable.delete(instanceId)
      })
    })
  }

  async #write(flow: string, after: ScheduleRecord, before: ScheduleRecord | undefined): Promise<void> {
    const { instanceId } = after
    using write = this.#begin(instanceId, flow)
    await step(write, 'record', async () => {
      await writeRecord(this.#layout.schedule(instanceId), after, before ?? null)
      this.#records.set(instanceId, after)
    })
  }

  /** What was begun is written also while the server stops. */
  #begin(instanceId: string, flow: string): OpenFlow {
    return loggedFlow(this.#host, flow, { instance: instanceId })
  }

  async #inTurn<T>(instanceId: string, act: () => Promise<T>): Promise<T> {
    const mine = (this.#writing.get(instanceId) ?? Promise.resolve()).then(act, act)
    this.#writing.set(instanceId, mine)
    try {
      return await mine
    } finally {
      if (this.#writing.get(instanceId) === mine) this.#writing.delete(instanceId)
    }
  }
}
