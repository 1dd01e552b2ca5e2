// Places for work of one kind, in whatever part of the server it is done: no more of it than that at a time. Nobody waits for one: who finds none comes again
// (turns.ts is for those who wait).

export class Slots {
  #free: number

  constructor(count: number) {
    this.#free = count
  }

  get isFull(): boolean {
    return this.#free <= 0
  }

  /** Undefined if none is free. Disposing gives it back; twice is harmless. */
  take(): Disposable | undefined {
    if (this.isFull) return undefined
    this.#free -= 1
    let held = true
    return {
      [Symbol.dispose]: () => {
        if (held) this.#free += 1
        held = false
      },
    }
  }
}
