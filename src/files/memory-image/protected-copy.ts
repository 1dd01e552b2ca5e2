// Copies memory that is protected from being written, and releases each page when it is copied.

import { fdatasync, writeSync } from 'node:fs'
import { pollReadable } from '../../platform/poll.ts'
import type { WriteTraps } from '../../platform/userfaultfd.ts'
import { nonZeroPieces } from './diff-file.ts'
import { pageBytes, type Mapping } from './private-pages.ts'
import { readParts } from './process-memory.ts'

/** Most that is copied at once, in pages, so that whoever waits to write does not wait for long. */
export const PAGES_AT_ONCE = 64
/** After so many bytes the disk begins to write, while more come. */
const BYTES_BETWEEN_SYNCS = 64 * 1024 ** 2

/** Memory as it was when it was protected, on its way into a file of the same size; pages of zeros stay holes. */
export class ProtectedCopy {
  readonly #ram: Mapping
  readonly #traps: WriteTraps
  readonly #target: number
  /** For each page whether it is copied: from then on it may change. */
  readonly #done: Uint8Array
  readonly #buffer = Buffer.allocUnsafeSlow(PAGES_AT_ONCE * pageBytes)
  #syncedFrom = 0
  #syncing: Promise<void> = Promise.resolve()
  bytes = 0

  constructor(ram: Mapping, traps: WriteTraps, target: number) {
    this.#ram = ram
    this.#done = new Uint8Array(ram.bytes / pageBytes)
    this.#traps = traps
    this.#target = target
  }

  /** Copies what of some pages is not copied yet, and lets them be written to. */
  take(first: number, count: number): void {
    for (let page = first, end = page; page < first + count; page = end + 1) {
      for (end = page; end < first + count && this.#done[end] === 0;) end += 1
      if (end > page) this.#copy(page, end - page)
    }
    this.#traps.release({ address: this.#ram.address + first * pageBytes, bytes: count * pageBytes })
    if (this.bytes - this.#syncedFrom >= BYTES_BETWEEN_SYNCS) this.#sync()
  }

  /** Those who wait to write come first. */
  serve(): void {
    while (pollReadable([this.#traps.fd], 0)[0] === true)
      for (const at of this.#traps.waiting()) {
        const page = (at - this.#ram.address) / pageBytes
        if (page >= 0 && page < this.#done.length) this.take(page, 1)
        // A ROM, or memory of a device, which QEMU makes anew.
        else this.#traps.release({ address: at, bytes: pageBytes })
      }
  }

  /** Rejects if anything could not be written. */
  async synced(): Promise<void> {
    this.#sync()
    await this.#syncing
  }

  #copy(first: number, count: number): void {
    const data = this.#buffer.subarray(0, count * pageBytes)
    readParts(this.#ram.pid, BigUint64Array.of(BigInt(this.#ram.address + first * pageBytes), BigInt(data.length)), data)
    for (const { from, to } of nonZeroPieces(data)) {
      for (let done = from; done < to;) done += writeSync(this.#target, data, done, to - done, first * pageBytes + done)
      this.bytes += to - from
    }
    this.#done.fill(1, first, first + count)
  }

  /** Has the disk begin to write, by a thread of Node's. */
  #sync(): void {
    this.#syncedFrom = this.bytes
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    fdatasync(this.#target, (error) => (error === null ? resolve() : reject(error)))
    this.#syncing = Promise.all([this.#syncing, promise]).then(() => undefined)
    this.#syncing.catch(() => undefined) // whoever waits for it is told
  }
}
