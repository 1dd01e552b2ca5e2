// Forks that are loaded before anybody asks for them. A snapshot that was forked is likely to be forked again, and most of what a fork costs (starting a VMM and
// loading the memory) does not depend on who asks. So after a burst of forks a few more are loaded, paused and without a name; the next forks take these.
// A cache in memory: what can't be made is logged, and a server that starts again ends what an earlier one left (recover.ts).

import type { Logger } from 'pino'
import type { StagedDirectory } from '../files/stage.ts'
import type { Machine } from '../hypervisors/driver.ts'
import { messageOf } from '../platform/flow.ts'

/** A fork without a record: a staged directory and a VMM that has loaded the snapshot's memory there and is paused. Disposing ends and removes both. */
export interface Spare extends AsyncDisposable {
  /** Id and MAC address that the fork will have: the VMM was started with them. */
  readonly id: string
  readonly mac: string | null
  readonly staged: StagedDirectory
  readonly machine: Machine
}

/** A fork under way. Disposing it ends its part in the burst. */
export interface ForkUnderWay extends Disposable {
  /** A spare of the same snapshot, which is the caller's from then on. */
  take(): Spare | undefined
}

export interface SparesOptions {
  readonly log: Logger
  /** How many there are at most, of all snapshots together; 0: none are made. */
  readonly most: number
  /** Those of a snapshot that was not forked for so long are ended, in milliseconds. */
  readonly unusedMs: number
  /** Nothing is made until no fork was under way for so long, in milliseconds. */
  readonly quietMs?: number
}

/** Made only when forks come to rest: a burst has the processors for itself. */
const QUIET_MS = 200

interface Kind {
  readonly make: () => Promise<Spare>
  readonly ready: Spare[]
  /** As many as forks were under way at once in the last burst. */
  wanted: number
  underWay: number
  usedAt: number
}

export class Spares {
  readonly #options: SparesOptions
  readonly #kinds = new Map<string, Kind>()
  readonly #quietMs: number
  #underWay = 0
  #making: Promise<void> | undefined
  #timer: NodeJS.Timeout | undefined
  #closed = false

  constructor(options: SparesOptions) {
    this.#options = options
    this.#quietMs = options.quietMs ?? QUIET_MS
  }

  /** How many are ready. */
  get ready(): number {
    return [...this.#kinds.values()].reduce((sum, { ready }) => sum + ready.length, 0)
  }

  /** Begins a fork of the snapshot with that key; `make` makes a spare of it. */
  begin(key: string, make: () => Promise<Spare>): ForkUnderWay {
    const kind = this.#kinds.get(key) ?? { make, ready: [], wanted: 0, underWay: 0, usedAt: 0 }
    if (this.#options.most > 0 && !this.#closed) this.#kinds.set(key, kind)
    if (kind.underWay === 0) kind.wanted = 0
    kind.underWay += 1
    kind.wanted = Math.min(Math.max(kind.wanted, kind.underWay), this.#options.most)
    kind.usedAt = performance.now()
    this.#underWay += 1
    clearTimeout(this.#timer)
    return {
      take: () => kind.ready.shift(),
      [Symbol.dispose]: () => {
        kind.underWay -= 1
        this.#underWay -= 1
        this.#later(this.#quietMs)
      },
    }
  }

  /** Ends those of a snapshot, which is not forked from then on. Returns when they are gone. */
  async drop(key: string): Promise<void> {
    const kind = this.#kinds.get(key)
    if (kind === undefined) return
    this.#kinds.delete(key)
    await this.#end(kind.ready.splice(0))
  }

  /** Ends all. Nothing is made from then on. */
  async close(): Promise<void> {
    this.#closed = true
    clearTimeout(this.#timer)
    const kinds = [...this.#kinds.keys()]
    await Promise.all(kinds.map((key) => this.drop(key)))
    await this.#making
  }

  #later(ms: number): void {
    clearTimeout(this.#timer)
    if (this.#closed || this.#kinds.size === 0) return
    this.#timer = setTimeout(() => {
      this.#making ??= this.#work().finally(() => (this.#making = undefined))
    }, ms)
    this.#timer.unref()
  }

  /** Makes what is missing, one at a time, as long as no fork is under way; ends what was not used for long. */
  async #work(): Promise<void> {
    for (const [key, kind] of this.#kinds)
      if (kind.underWay === 0 && performance.now() - kind.usedAt >= this.#options.unusedMs) await this.drop(key)
    // Chosen anew each time: other bursts may have ended meanwhile.
    for (let next = this.#wanted(); next !== undefined && this.#underWay === 0 && !this.#closed; next = this.#wanted())
      await this.#makeOne(...next)
    if (this.#underWay === 0) this.#later(this.#options.unusedMs) // else the end of the last fork under way comes back here
  }

  /** The snapshots by their last use, the latest first. */
  #byUse(): readonly (readonly [string, Kind])[] {
    return [...this.#kinds].toSorted(([, one], [, other]) => other.usedAt - one.usedAt)
  }

  /** Of which snapshot one is missing. */
  #wanted(): readonly [string, Kind] | undefined {
    return this.#byUse().find(([, kind]) => kind.ready.length < kind.wanted)
  }

  async #makeOne(key: string, kind: Kind): Promise<void> {
    if (this.ready >= this.#options.most && !(await this.#makeRoom(kind))) {
      kind.wanted = kind.ready.length
      return
    }
    try {
      const spare = await kind.make()
      if (this.#closed || this.#kinds.get(key) !== kind) await this.#end([spare])
      else this.#keep(kind, spare)
    } catch (error) {
      this.#options.log.warn(
        { snapshot: key, error: messageOf(error) },
        'no fork could be loaded ahead; the next ones are loaded when they are asked for',
      )
      kind.wanted = 0
    }
  }

  /** Until it is taken, or ends by itself. */
  #keep({ ready }: Kind, spare: Spare): void {
    ready.push(spare)
    void spare.machine.exited.then(() => {
      const at = ready.indexOf(spare)
      if (at >= 0) void this.#end(ready.splice(at, 1))
    })
  }

  /** Ends one of a snapshot that was used before `kind` was. */
  async #makeRoom(kind: Kind): Promise<boolean> {
    const oldest = this.#byUse().findLast(([, one]) => one.ready.length > 0)?.[1]
    if (oldest === undefined || oldest === kind || oldest.usedAt > kind.usedAt) return false
    await this.#end(oldest.ready.splice(-1))
    return true
  }

  async #end(spares: readonly Spare[]): Promise<void> {
    await Promise.all(
      spares.map(async (spare) => {
        try {
          await spare[Symbol.asyncDispose]()
        } catch (error) {
          this.#options.log.warn(
            { pid: spare.machine.process.pid, error: messageOf(error) },
            'a fork that was loaded ahead could not be ended',
          )
        }
      }),
    )
  }
}
