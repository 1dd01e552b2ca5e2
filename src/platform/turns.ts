// Lets few at once do what all together would do more slowly. Not for what must not happen at the same time (keyed-lock.ts).

/** Waits are in order of arrival. A turn that takes longer than `longestMs` is no longer counted: nobody waits for one who hangs. */
export class Turns {
  readonly #width: number
  readonly #longestMs: number
  readonly #waiting: (() => void)[] = []
  #taken = 0

  constructor(width: number, longestMs: number) {
    this.#width = width
    this.#longestMs = longestMs
  }

  /** Resolves with the turn, which ends when it is disposed of; rejects with the signal's reason if that aborts first. */
  async take(signal: AbortSignal): Promise<Disposable> {
    signal.throwIfAborted()
    if (this.#taken < this.#width) this.#taken += 1
    else await this.#wait(signal)
    let counted = true
    const end = (): void => {
      if (!counted) return
      counted = false
      clearTimeout(timer)
      const next = this.#waiting.shift()
      if (next === undefined) this.#taken -= 1
      else next()
    }
    const timer = setTimeout(end, this.#longestMs)
    timer.unref()
    return { [Symbol.dispose]: end }
  }

  async #wait(signal: AbortSignal): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    const onAbort = (): void => {
      this.#waiting.splice(this.#waiting.indexOf(resolve), 1)
      reject(signal.reason as Error)
    }
    this.#waiting.push(resolve)
    signal.addEventListener('abort', onAbort, { once: true })
    try {
      await promise
    } finally {
      signal.removeEventListener('abort', onAbort)
    }
  }
}
