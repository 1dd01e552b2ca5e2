// What was asked of a server and answered, with the instants in its disk's log: which worlds may be found after a loss of power at an instant.

import { emptyWorld, type World } from './world.ts'

/** One thing that was asked for. */
interface Chapter {
  readonly title: string
  /** When it was asked and when it was answered, in bytes of the log. */
  readonly from: number
  readonly to: number
  /** What may be found while it is under way, what was before included. */
  readonly meanwhile: readonly World[]
  readonly after: World
}

export class History {
  readonly #now: () => number
  readonly #chapters: Chapter[] = []
  world: World = emptyWorld

  /** `now` tells the length of the disk's log. */
  constructor(now: () => number) {
    this.#now = now
  }

  /** Does one thing; `act` returns the world as it is promised when it resolves, and may name others that may be found before. */
  async do(
    title: string,
    act: (before: World) => Promise<World | { readonly after: World; readonly meanwhile: readonly World[] }>,
  ): Promise<void> {
    const before = this.world
    const from = this.#now()
    const outcome = await act(before)
    const { after, meanwhile } = 'after' in outcome ? outcome : { after: outcome, meanwhile: [] }
    this.#chapters.push({ title, from, to: this.#now(), meanwhile: [before, ...meanwhile, after], after })
    this.world = after
  }

  /**
   * What may be found after each loss of power that comes while the log's length is at least `from` and below `to`. Equal lengths are many instants:
   * what is answered without a write is answered all the same.
   */
  during(from: number, to: number): Expectation[] {
    return this.#chapters
      .flatMap(({ title, from: asked, to: answered, meanwhile, after }, index) => [
        { when: `while ${title}`, worlds: meanwhile, begin: asked, end: answered },
        { when: `after ${title}`, worlds: [after], begin: answered, end: this.#chapters[index + 1]?.from ?? answered },
      ])
      .filter(({ begin, end }) => begin < to && end >= from)
  }

  /** Instants at which something was answered. */
  get answers(): readonly number[] {
    return this.#chapters.map(({ to }) => to)
  }
}

export interface Expectation {
  readonly when: string
  readonly worlds: readonly World[]
}
