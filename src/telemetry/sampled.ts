// A look that takes long, taken in the background when somebody asks and the last one is too old. Nobody waits for it longer than a moment, and it is
// never taken twice at a time.

import { setTimeout as delay } from 'node:timers/promises'

export interface SampleOptions<T> {
  readonly look: (signal: AbortSignal) => Promise<T>
  /** Younger looks are good enough, in milliseconds. */
  readonly freshMs: number
  /** Whoever asks waits at most this long for a new look, in milliseconds; then the last one is the answer. */
  readonly patienceMs: number
  readonly failed: (error: unknown) => void
  readonly now?: () => number
}

export class Sampled<T> implements Disposable {
  readonly #options: SampleOptions<T>
  readonly #closing = new AbortController()
  #last: { readonly value: T; readonly at: number } | undefined
  #looking: Promise<void> | undefined

  constructor(options: SampleOptions<T>) {
    this.#options = options
  }

  /** Undefined as long as the first look has not ended. */
  async value(): Promise<T | undefined> {
    const { freshMs, patienceMs } = this.#options
    const isFresh = this.#last !== undefined && this.#now() - this.#last.at < freshMs
    if (!isFresh && !this.#closing.signal.aborted) {
      this.#looking ??= this.#look()
      const enough = new AbortController()
      const patience = delay(patienceMs, undefined, { signal: enough.signal }).catch(() => undefined) // the look was there first
      await Promise.race([this.#looking, patience])
      enough.abort()
    }
    return this.#last?.value
  }

  [Symbol.dispose](): void {
    this.#closing.abort()
  }

  async #look(): Promise<void> {
    try {
      this.#last = { value: await this.#options.look(this.#closing.signal), at: this.#now() }
    } catch (error) {
      if (!this.#closing.signal.aborted) this.#options.failed(error)
    } finally {
      this.#looking = undefined
    }
  }

  #now(): number {
    return this.#options.now?.() ?? performance.now()
  }
}
