// Tells any number of listeners how images come along. A slow listener gets the newest piece of each image; how an image ended is never dropped.

import type { ImageProgress } from './types.ts'

export class ProgressHub {
  readonly #listeners = new Set<Listener>()

  publish(piece: ImageProgress): void {
    for (const listener of this.#listeners) listener.put(piece)
  }

  /** Begins with `current`; ends when the signal aborts. */
  async *listen(current: readonly ImageProgress[], signal: AbortSignal): AsyncGenerator<ImageProgress> {
    const listener = new Listener()
    for (const piece of current) listener.put(piece)
    const wake = (): void => listener.wake()
    this.#listeners.add(listener)
    signal.addEventListener('abort', wake)
    try {
      while (!signal.aborted) {
        const piece = listener.take()
        if (piece === undefined) await listener.waitForMore()
        else yield piece
      }
    } finally {
      signal.removeEventListener('abort', wake)
      this.#listeners.delete(listener)
    }
  }
}

/** What one listener has not taken yet: at most one piece under way for each image, and how images ended. */
class Listener {
  readonly #pieces: ImageProgress[] = []
  #more = Promise.withResolvers<void>()

  put(piece: ImageProgress): void {
    const at = this.#pieces.findLastIndex(({ name }) => name === piece.name)
    const before = this.#pieces[at]
    if (before === undefined || hasEnded(before)) this.#pieces.push(piece)
    else this.#pieces[at] = piece
    this.wake()
  }

  take(): ImageProgress | undefined {
    return this.#pieces.shift()
  }

  wake(): void {
    this.#more.resolve()
  }

  async waitForMore(): Promise<void> {
    await this.#more.promise
    this.#more = Promise.withResolvers()
  }
}

function hasEnded({ status }: ImageProgress): boolean {
  return status === 'ready' || status === 'failed'
}
