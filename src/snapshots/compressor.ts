// Keeps the memory of snapshots compressed, for those that are to be: few at a time and at the lowest priority, and never in the way of anything else. What there is
// to do is read from what lies on disk, so a server that was stopped in between goes on after its next start.

import path from 'node:path'
import type { Logger } from 'pino'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { isHypemanError } from '../api/errors.ts'
import { compressedPath, noteOfDecompression, removeUnsealedCompressed, type CompressedFile } from '../files/compressed-files.ts'
import { seeFile } from '../files/identity.ts'
import { driverOf } from '../instances/index.ts'
import { messageOf, step, type FlowContext, type StepEvent } from '../platform/flow.ts'
import { compressMemory, freeMemory, removeUnsealedMemory, type CompressionHost } from './compress.ts'
import { lookAtMemory, readCompression, type CompressionRecord, type MemoryLook } from './compression-record.ts'
import { statusOf, type CompressionStatus } from './compression-status.ts'
import { decompressMemory } from './decompress.ts'
import type { SnapshotRecord } from './record.ts'
import { readSeals, SealsProblem } from './seals.ts'
import { SharedMemory } from './shared-memory.ts'

/** What failed (a full disk) is tried again after this time, in milliseconds. */
const RETRY_MS = 600_000

export interface CompressorOptions {
  /** Memory that was decompressed stays so for this long after it was last used, in milliseconds. */
  readonly keepMs: number
  /** How often it looks what has become possible, in milliseconds; by default every five seconds. */
  readonly lookEveryMs?: number
}

const LOOK_EVERY_MS = 5_000

/** A snapshot that is to be compressed. */
interface Tracked {
  record: CompressionRecord
  status: CompressionStatus
  /** Why its work failed last. */
  error?: string
  /** Why it could not be looked at last. */
  unseen?: string
  /** On the clock of `performance`. */
  notBefore: number
  /** Nothing is left to be done. */
  settled: boolean
}

/** One that knows what there is, by the server's settings. It begins to work when it is told to. */
export async function openCompressor(host: CompressionHost, settings: { readonly keep_decompressed: number }): Promise<Compressor> {
  const compressor = new Compressor(host, { keepMs: settings.keep_decompressed })
  await compressor.load()
  return compressor
}

export class Compressor implements AsyncDisposable {
  readonly #host: CompressionHost
  readonly #options: Required<CompressorOptions>
  readonly #log: Logger
  readonly #tracked = new Map<string, Tracked>()
  readonly #running = new Map<string, { readonly cancel: AbortController; readonly done: Promise<void> }>()
  /** Snapshots that are about to be deleted, with how many wait for it. */
  readonly #paused = new Map<string, number>()
  readonly #decompressing = new Map<string, Promise<void>>()
  readonly #closing = new AbortController()
  readonly #shared = new SharedMemory()
  #looking = false
  #lookAgain = false
  #timer: NodeJS.Timeout | undefined

  constructor(host: CompressionHost, options: CompressorOptions) {
    this.#host = host
    this.#options = { lookEveryMs: LOOK_EVERY_MS, ...options }
    this.#log = host.instances.log
  }

  /** At the start, before anything is asked for: learns what is to be compressed, and removes what a crash left of one form or the other. */
  async load(): Promise<void> {
    for (const { id } of this.#host.store.list()) {
      const directory = this.#host.instances.layout.snapshot(id)
      try {
        const record = readCompression(directory, id)
        if (record === undefined) continue
        await removeUnsealedCompressed(directory, readSeals(directory, id))
        await removeUnsealedMemory(directory, id, record)
        this.#track(record)
      } catch (error) {
        this.#log.warn({ snapshot: id, error: messageOf(error) }, 'whether a snapshot is compressed can not be told')
      }
    }
  }

  /** Takes in a committed snapshot that is to be compressed. */
  add(record: CompressionRecord): void {
    this.#track(record)
    this.look()
  }

  #track(record: CompressionRecord): void {
    const status = statusOf(record, undefined, { error: undefined, waiting: true })
    this.#tracked.set(record.snapshotId, { record, status, notBefore: 0, settled: false })
    this.#see(record.snapshotId)
  }

  /** Undefined for a snapshot that is not to be compressed. */
  statusOf(id: string): CompressionStatus | undefined {
    return this.#tracked.get(id)?.status
  }

  /** From now on it works, also by itself. Records that a crash left half written are gone by then: nothing of what it writes is taken for one. */
  start(): void {
    this.#timer ??= setInterval(() => this.look(), this.#options.lookEveryMs).unref()
    this.look()
  }

  /** Begins what can be done now. */
  look(): void {
    if (this.#timer === undefined || this.#closing.signal.aborted) return
    this.#lookAgain = true
    if (!this.#looking) void this.#lookAtAll()
  }

  /** Before a snapshot is deleted: ends what is done with it, and begins nothing until disposed of. */
  async pause(id: string): Promise<Disposable> {
    this.#paused.set(id, (this.#paused.get(id) ?? 0) + 1)
    const running = this.#running.get(id)
    running?.cancel.abort(new Error('the snapshot is being deleted'))
    await running?.done
    return {
      [Symbol.dispose]: () => {
        const others = (this.#paused.get(id) ?? 1) - 1
        if (others > 0) this.#paused.set(id, others)
        else this.#paused.delete(id)
        if (this.#host.store.byId(id) === undefined) this.#forget(id)
        this.look()
      },
    }
  }

  /**
   * Before a snapshot's memory is used, by a flow that holds the snapshot: decompresses it if need be, once for all who ask meanwhile. Returns what is to be told
   * of it in the events of the instance that is made of it.
   */
  async makeReady(snapshot: SnapshotRecord, flow: FlowContext): Promise<StepEvent | undefined> {
    const tracked = this.#tracked.get(snapshot.id)
    if (tracked === undefined) return undefined
    tracked.notBefore = Math.max(tracked.notBefore, performance.now() + this.#options.keepMs)
    const files = this.#absent(snapshot, tracked)
    if (files.length === 0) return undefined
    const started = performance.now()
    await step(flow, 'decompress', () => this.#decompressing.get(snapshot.id) ?? this.#decompress(snapshot, tracked))
    const note = noteOfDecompression(files, tracked.record.algorithm)
    return { flow: flow.flow, step: 'memory-decompressed', ms: performance.now() - started, note }
  }

  /** Memory files that lie there compressed alone. What is wrong with a snapshot's seals is for the check that follows to tell. */
  #absent(snapshot: SnapshotRecord, tracked: Tracked): readonly CompressedFile[] {
    try {
      const { compressed, absent } = this.#lookAt(snapshot, tracked)
      return compressed.filter(({ name }) => absent.includes(name))
    } catch (error) {
      if (error instanceof SealsProblem) return []
      throw error
    }
  }

  /** Looks anew what is to be done: another may have done it since. */
  async #decompress(snapshot: SnapshotRecord, tracked: Tracked): Promise<void> {
    const files = this.#absent(snapshot, tracked)
    if (files.length === 0) return
    const done = decompressMemory(this.#host, snapshot, tracked.record, files, this.#closing.signal).finally(() => {
      this.#decompressing.delete(snapshot.id)
      tracked.settled = false
      this.#see(snapshot.id)
    })
    this.#decompressing.set(snapshot.id, done)
    await done
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort(new Error('the server is stopping'))
    clearInterval(this.#timer)
    await Promise.all([...this.#running.values()].map(({ done }) => done))
    await Promise.allSettled(this.#decompressing.values())
  }

  async #lookAtAll(): Promise<void> {
    this.#looking = true
    while (this.#lookAgain && !this.#closing.signal.aborted) {
      this.#lookAgain = false
      for (const [id, tracked] of this.#tracked) {
        if (this.#host.instances.compressions.isFull || this.#closing.signal.aborted) break
        if (tracked.settled || this.#running.has(id) || this.#paused.has(id)) continue
        this.#begin(id, tracked)
        await nextTurn() // requests come first
      }
    }
    this.#looking = false
  }

  /** Begins what there is to do for a snapshot, if there is anything. */
  #begin(id: string, tracked: Tracked): void {
    const snapshot = this.#host.store.byId(id)
    if (snapshot === undefined) return this.#forget(id)
    const now = this.#see(id)
    if (now === undefined || (now.ready.length === 0 && (now.freeable.length === 0 || performance.now() < tracked.notBefore))) return
    if (tracked.error !== undefined && performance.now() < tracked.notBefore) return
    const slot = this.#host.instances.compressions.take()
    if (slot === undefined) return
    const cancel = new AbortController()
    const signal = AbortSignal.any([cancel.signal, this.#closing.signal])
    const done = this.#work(snapshot, tracked, now, signal)
      .catch((error: unknown) => {
        if (signal.aborted) return
        const isBusy = isHypemanError(error, 'busy')
        tracked.notBefore = performance.now() + (isBusy ? this.#options.lookEveryMs : RETRY_MS)
        if (isBusy) return
        tracked.error = messageOf(error)
        this.#log.warn({ snapshot: id, error: tracked.error }, 'a snapshot could not be compressed')
      })
      .finally(() => {
        slot[Symbol.dispose]()
        this.#running.delete(id)
        this.#see(id)
        this.look()
      })
    this.#running.set(id, { cancel, done })
    this.#see(id)
  }

  #forget(id: string): void {
    this.#tracked.delete(id)
    this.#shared.forget(id)
  }

  async #work(snapshot: SnapshotRecord, tracked: Tracked, now: MemoryLook, signal: AbortSignal): Promise<void> {
    if (now.ready.length > 0) {
      const twins = this.#twinsOf(snapshot, tracked, now)
      tracked.record = await compressMemory(this.#host, snapshot, { wanted: tracked.record, names: now.ready, twins }, signal)
    }
    delete tracked.error
    const isFree = await freeMemory(this.#host, snapshot, tracked.record, () => this.#lookAt(snapshot, tracked).freeable, signal)
    if (!isFree) tracked.notBefore = Math.max(tracked.notBefore, performance.now() + this.#options.lookEveryMs)
  }

  /** Files that other snapshots have of the same memory, compressed in the same way, by the name of the memory. */
  #twinsOf({ id }: SnapshotRecord, { record }: Tracked, { names, ready }: MemoryLook): ReadonlyMap<string, string> {
    const { layout, digests } = this.#host.instances
    const twins = new Map<string, string>()
    for (const { inode, name } of names)
      for (const other of ready.includes(name) ? this.#shared.compressedElsewhere(id, inode) : []) {
        const its = this.#tracked.get(other.id)?.record
        if (its?.algorithm !== record.algorithm || its.level !== record.level) continue
        const file = path.join(layout.snapshot(other.id), compressedPath(other.name, its))
        const seen = seeFile(file)
        if (seen !== undefined && !digests.isDamaged(seen)) twins.set(name, file)
      }
    return twins
  }

  /** Looks at a snapshot, and lets its status say what is seen. Undefined if it can't be looked at, which its status says then. */
  #see(id: string): MemoryLook | undefined {
    const tracked = this.#tracked.get(id)
    const snapshot = this.#host.store.byId(id)
    if (tracked === undefined || snapshot === undefined) return undefined
    let look: MemoryLook | undefined
    try {
      look = this.#lookAt(snapshot, tracked)
      this.#shared.set(id, look.names)
      tracked.settled = look.ready.length + look.shared.length + look.freeable.length === 0 && look.absent.length === look.compressed.length
      if (tracked.settled) delete tracked.error
      delete tracked.unseen
    } catch (error) {
      tracked.unseen = messageOf(error)
    }
    const error = tracked.error ?? tracked.unseen
    const waiting = look !== undefined && look.ready.length > 0 && (error === undefined || this.#running.has(id))
    const status = statusOf(tracked.record, look, { error, waiting })
    if (JSON.stringify(status) !== JSON.stringify(tracked.status)) {
      tracked.status = status
      this.#host.store.renew(id)
    }
    return look
  }

  #lookAt(snapshot: SnapshotRecord, { record }: Tracked): MemoryLook {
    const { instances } = this.#host
    const directory = instances.layout.snapshot(snapshot.id)
    const driver = driverOf(instances, snapshot.instance)
    return lookAtMemory(
      directory,
      record,
      readSeals(directory, snapshot.id),
      (name) => driver.partOf(name) === 'memory',
      (inode) => this.#shared.others(snapshot.id, inode),
    )
  }
}
