// Locks by key: one writer or many readers per key, first come first served, with a bounded wait. Not for locks between processes (lock.ts).

import { HypemanError } from '../api/errors.ts'

interface Waiter {
  readonly exclusive: boolean
  grant(): void
}

interface Entry {
  readers: number
  writer: boolean
  readonly queue: Waiter[]
}

/** Held until disposed; disposing twice is harmless. */
export interface HeldLock extends Disposable {
  readonly key: string
}

export interface LockOptions {
  /** How long to wait before `busy` is thrown, in milliseconds. */
  readonly waitMs: number
  /** What the lock guards, for the error: `instance web-1`. */
  readonly what: string
  readonly shared?: boolean
  /** Ends the wait with its reason. */
  readonly signal?: AbortSignal
}

export class KeyedLock {
  readonly #entries = new Map<string, Entry>()

  /** Waits at most `waitMs` for the key; then `busy`. Operations on different keys never wait for each other. */
  async acquire(key: string, options: LockOptions): Promise<HeldLock> {
    options.signal?.throwIfAborted()
    const exclusive = options.shared !== true
    const entry = this.#entries.get(key) ?? { readers: 0, writer: false, queue: [] }
    this.#entries.set(key, entry)
    if (entry.queue.length === 0 && admits(entry, exclusive)) return this.#hold(key, entry, exclusive)
    const { promise, resolve, reject } = Promise.withResolvers<HeldLock>()
    const waiter: Waiter = { exclusive, grant: () => resolve(this.#hold(key, entry, exclusive)) }
    entry.queue.push(waiter)
    const giveUp = (reason: Error): void => {
      const at = entry.queue.indexOf(waiter)
      if (at < 0) return // it was granted
      entry.queue.splice(at, 1)
      this.#wake(key, entry)
      reject(reason)
    }
    const timer = setTimeout(() => {
      giveUp(
        new HypemanError(
          'busy',
          `${options.what} is busy with another operation (waited ${options.waitMs} ms); try again when it has ended`,
        ),
      )
    }, options.waitMs)
    const onAbort = (): void => giveUp(options.signal?.reason as Error)
    options.signal?.addEventListener('abort', onAbort, { once: true })
    try {
      return await promise
    } finally {
      clearTimeout(timer)
      options.signal?.removeEventListener('abort', onAbort)
    }
  }

  /** True while somebody holds the key. */
  isHeld(key: string): boolean {
    return this.#entries.has(key)
  }

  #hold(key: string, entry: Entry, exclusive: boolean): HeldLock {
    if (exclusive) entry.writer = true
    else entry.readers += 1
    let held = true
    return {
      key,
      [Symbol.dispose]: () => {
        if (!held) return
        held = false
        if (exclusive) entry.writer = false
        else entry.readers -= 1
        this.#wake(key, entry)
      },
    }
  }

  #wake(key: string, entry: Entry): void {
    for (let next = entry.queue[0]; next !== undefined && admits(entry, next.exclusive); next = entry.queue[0]) {
      entry.queue.shift()
      next.grant()
    }
    if (!entry.writer && entry.readers === 0 && entry.queue.length === 0) this.#entries.delete(key)
  }
}

function admits(entry: Entry, exclusive: boolean): boolean {
  return exclusive ? !entry.writer && entry.readers === 0 : !entry.writer
}
