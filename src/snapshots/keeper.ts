// Keeps the seals of snapshots: adds the digests of large files after a snapshot was taken, one file at a time and beside everything else, goes on with it
// after a restart, and is the only one to write seals of committed snapshots.

import { readdir } from 'node:fs/promises'
import path from 'node:path'
import { HypemanError } from '../api/errors.ts'
import type { Digests } from '../files/digests.ts'
import { seeFile } from '../files/identity.ts'
import { snapshotFiles } from '../files/layout.ts'
import { isSealed, isSmall, lookAt, sealOf, writtenBeforeDigest, type FileSeal } from '../files/seals.ts'
import { removeUnfinishedRecords, writeRecord } from '../files/stage.ts'
import { flowOn, type InstanceContext } from '../instances/index.ts'
import { messageOf, step } from '../platform/flow.ts'
import { readSeals, sealsRecordOf } from './seals.ts'
import type { SnapshotRecord } from './record.ts'
import type { SnapshotStore } from './store.ts'

/** What could not be done (a full disk) is tried again after this time, in milliseconds. */
const RETRY_MS = 60_000

export class SealKeeper implements AsyncDisposable {
  readonly #instances: InstanceContext
  readonly #store: SnapshotStore
  readonly #digests: Digests
  /** Snapshots with files that have no digest, in the order they came. */
  readonly #pending = new Set<string>()
  readonly #writing = new Map<string, Promise<void>>()
  readonly #closing = new AbortController()
  #current: { readonly id: string; readonly cancel: AbortController; readonly done: Promise<void> } | undefined
  readonly #readers = new Set<{ readonly id: string; readonly end: AbortController }>()
  #working = false
  #retry: NodeJS.Timeout | undefined

  constructor(instances: InstanceContext, store: SnapshotStore) {
    this.#instances = instances
    this.#store = store
    this.#digests = instances.digests
  }

  /** After a start: learns the digests that are there, and goes on with those that are not. */
  async resume(): Promise<void> {
    for (const { id } of this.#store.list()) {
      if (this.#closing.signal.aborted) return
      try {
        const directory = this.#instances.layout.snapshot(id)
        await this.#inTurn(id, () => removeUnfinishedRecords(directory))
        this.add(id, readSeals(directory, id))
      } catch (error) {
        if (this.#store.byId(id) !== undefined) this.#warn(id, error)
      }
    }
  }

  /** Takes a committed snapshot's seals in. */
  add(id: string, seals: readonly FileSeal[]): void {
    for (const seal of seals) {
      if (seal.digest !== null && !isSmall({ allocatedBytes: seal.sizeBytes })) this.#digests.remember(seal, seal.digest)
      if (seal.damagedAt !== null) this.#digests.setDamaged(seal, true)
    }
    if (seals.every(({ digest }) => digest !== null)) return
    this.#pending.add(id)
    void this.#work()
  }

  /** Changes the seals of a committed snapshot, durably; changes of one snapshot are made one after another. */
  async update(id: string, change: (seals: readonly FileSeal[]) => readonly FileSeal[]): Promise<void> {
    await this.#inTurn(id, async () => {
      const directory = this.#instances.layout.snapshot(id)
      const before = readSeals(directory, id)
      await writeRecord(path.join(directory, snapshotFiles.seals), sealsRecordOf(id, change(before)), sealsRecordOf(id, before))
    })
  }

  /** Whatever writes, or tidies up after writing, waits for what does already. */
  async #inTurn(id: string, act: () => Promise<void>): Promise<void> {
    const written = (this.#writing.get(id) ?? Promise.resolve()).then(act, act).finally(() => {
      if (this.#writing.get(id) === written) this.#writing.delete(id)
    })
    this.#writing.set(id, written)
    await written
  }

  /** Aborts when the snapshot is about to be deleted, until disposed of: for those who read its files without holding it. */
  whileThere(id: string): Disposable & { readonly signal: AbortSignal } {
    const reader = { id, end: new AbortController() }
    this.#readers.add(reader)
    return { signal: reader.end.signal, [Symbol.dispose]: () => void this.#readers.delete(reader) }
  }

  /** True while files of the snapshot are read by somebody who does not hold it. */
  isReading(id: string): boolean {
    return this.#current?.id === id || this.#pending.has(id) || [...this.#readers].some((reader) => reader.id === id)
  }

  /** Before a snapshot is deleted: leaves its files alone from now on, and forgets what nobody shares with it. */
  async drop(id: string): Promise<void> {
    this.#pending.delete(id)
    for (const reader of this.#readers)
      if (reader.id === id) reader.end.abort(new HypemanError('not_found', `the snapshot ${id} is being deleted`))
    if (this.#current?.id === id) {
      this.#current.cancel.abort(new Error('the snapshot is being deleted'))
      await this.#current.done
    }
    await this.#writing.get(id)?.catch(() => undefined) // whoever asked for it was told
    for (const place of [snapshotFiles.payload, snapshotFiles.compressed]) {
      const directory = path.join(this.#instances.layout.snapshot(id), place)
      for (const name of await readdir(directory).catch(() => [])) {
        const seen = seeFile(path.join(directory, name))
        if (seen?.links === 1) this.#digests.forget(seen)
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort(new Error('the server is stopping'))
    clearTimeout(this.#retry)
    await this.#current?.done
    await Promise.allSettled(this.#writing.values())
  }

  async #work(): Promise<void> {
    if (this.#working) return
    this.#working = true
    const failed: string[] = []
    for (let [id] = this.#pending; id !== undefined && !this.#closing.signal.aborted; [id] = this.#pending) {
      this.#pending.delete(id)
      const record = this.#store.byId(id)
      if (record === undefined) continue
      const cancel = new AbortController()
      const work = this.#complete(record, AbortSignal.any([cancel.signal, this.#closing.signal]))
      const done = work.catch((error: unknown) => {
        if (cancel.signal.aborted || this.#closing.signal.aborted) return
        failed.push(record.id)
        this.#warn(record.id, error)
      })
      this.#current = { id, cancel, done }
      await done
      this.#current = undefined
    }
    this.#working = false
    if (failed.length === 0 || this.#closing.signal.aborted) return
    clearTimeout(this.#retry)
    this.#retry = setTimeout(() => {
      for (const id of failed) this.#pending.add(id)
      void this.#work()
    }, RETRY_MS).unref()
  }

  async #complete(record: SnapshotRecord, signal: AbortSignal): Promise<void> {
    using flow = flowOn(this.#instances, record.sourceInstanceId, 'snapshot.digest', { signal, about: { snapshotId: record.id } })
    const directory = this.#instances.layout.snapshot(record.id)
    const made = await step(flow, 'read', async () => {
      const digests = new Map<string, FileSeal>()
      for (const seal of readSeals(directory, record.id)) {
        const full = seal.digest === null ? await this.#digested(directory, seal, signal) : undefined
        if (full !== undefined) digests.set(seal.name, full)
      }
      return digests
    })
    if (made.size > 0)
      await step(flow, 'record', () =>
        this.update(record.id, (seals) => seals.map((seal) => (seal.digest === null ? (made.get(seal.name) ?? seal) : seal))),
      )
  }

  /** The seal with a digest; undefined if the file is not the one that was sealed, so that a digest of it would prove nothing. */
  async #digested(directory: string, seal: FileSeal, signal: AbortSignal): Promise<FileSeal | undefined> {
    const file = path.join(directory, seal.name)
    const seen = seeFile(file)
    const problem = lookAt(seal, seen)
    if (seen === undefined || problem !== undefined || !isSealed(seal, seen)) {
      this.#warn(path.basename(directory), new Error(`${seal.name} ${problem?.what ?? writtenBeforeDigest}`))
      return undefined
    }
    const known = this.#digests.known(seen)
    if (known !== undefined) return sealOf(seal.name, seen, known)
    const { digest, identity } = await this.#digests.read(file, { urgent: false, signal })
    if (!isSealed(seal, identity)) throw new Error(`${seal.name} was replaced while it was read`)
    this.#digests.remember(identity, digest)
    return sealOf(seal.name, identity, digest)
  }

  #warn(id: string, error: unknown): void {
    this.#instances.log.warn({ snapshot: id, error: messageOf(error) }, 'the digests of a snapshot are not complete')
  }
}
