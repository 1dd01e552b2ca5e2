// Conversions under way and those that failed: one for each digest however many names wait for it, a few at a time, the rest queue.
// What to convert is the service's decision, how is convert.ts's.

import { HypemanError } from '../api/errors.ts'
import { messageOf } from '../platform/flow.ts'
import type { BlobSource, ConversionProgress } from './convert.ts'
import type { ImageRecord, ReferenceRecord } from './records.ts'
import type { ImageStatus } from './types.ts'

/** The reference that a name becomes when the conversion has succeeded. */
export type Wish = Omit<ReferenceRecord, 'version' | 'digest'>

export interface ConversionRequest {
  readonly digest: string
  readonly platform: string
  readonly totalBytes: number | undefined
  readonly source: BlobSource
}

export interface ConversionHooks {
  convert(conversion: Conversion, source: BlobSource, progress: ConversionProgress): Promise<ImageRecord>
  /** Enters the image and the names that wait for it. */
  commit(conversion: Conversion, record: ImageRecord): Promise<void>
  changed(conversion: Conversion): void
}

export class Conversion {
  readonly digest: string
  readonly platform: string
  readonly totalBytes: number | undefined
  readonly wishes = new Map<string, Wish>()
  readonly aborter = new AbortController()
  status: ImageStatus = 'pending'
  doneBytes: number | undefined
  error: unknown
  /** Resolves when it has ended, well or not. */
  readonly ended: Promise<void>
  readonly end: () => void

  constructor(request: ConversionRequest) {
    this.digest = request.digest
    this.platform = request.platform
    this.totalBytes = request.totalBytes
    const { promise, resolve } = Promise.withResolvers<void>()
    this.ended = promise
    this.end = resolve
  }

  get errorMessage(): string | undefined {
    return this.error === undefined ? undefined : this.error instanceof HypemanError ? this.error.message : messageOf(this.error)
  }
}

export class Conversions {
  readonly #hooks: ConversionHooks
  readonly #atOnce: number
  /** Not ended yet, by digest. */
  readonly #active = new Map<string, Conversion>()
  /** Active and failed ones, by each name that waits or waited. */
  readonly #byName = new Map<string, Conversion>()
  readonly #queue: { readonly conversion: Conversion; readonly source: BlobSource }[] = []
  #running = 0
  #closed = false

  constructor(hooks: ConversionHooks, atOnce: number) {
    this.#hooks = hooks
    this.#atOnce = atOnce
  }

  active(digest: string): Conversion | undefined {
    return this.#active.get(digest)
  }

  /** By name or alias. */
  byName(name: string): Conversion | undefined {
    return this.#byName.get(name) ?? [...this.#byName.values()].find((each) => wishOf(each, name) !== undefined)
  }

  /** Active and failed ones. */
  all(): readonly Conversion[] {
    return [...new Set(this.#byName.values())]
  }

  /** Resolves when no conversion of the digest is on its way out: a new one may start. */
  async settled(digest: string): Promise<void> {
    for (let active = this.#active.get(digest); active?.aborter.signal.aborted === true; active = this.#active.get(digest))
      await active.ended
  }

  /** Starts a conversion that none of the same digest is under way for. Takes the request's source over, to dispose it at the end. */
  start(requested: () => ConversionRequest, wish: Wish): Conversion {
    if (this.#closed) throw new HypemanError('canceled', `the server is stopping; pull ${wish.name} again when it is back`)
    const request = requested()
    const conversion = new Conversion(request)
    this.#active.set(request.digest, conversion)
    this.join(conversion, wish)
    this.#queue.push({ conversion, source: request.source })
    this.#next()
    return conversion
  }

  /** Lets a name wait for a conversion, and no longer for another. */
  join(conversion: Conversion, wish: Wish): void {
    if (this.#byName.get(wish.name) !== conversion) this.detach(wish.name)
    conversion.wishes.set(wish.name, wish)
    this.#byName.set(wish.name, conversion)
    this.#hooks.changed(conversion)
  }

  /** Makes a name forget its conversion. One that nobody waits for is ended. */
  detach(name: string): void {
    const conversion = this.#byName.get(name)
    if (conversion === undefined) return
    this.#byName.delete(name)
    conversion.wishes.delete(name)
    if (conversion.wishes.size > 0 || this.#active.get(conversion.digest) !== conversion) return
    conversion.aborter.abort(new HypemanError('not_found', `the image ${name} was removed before it was ready`))
  }

  /** How many are before it, while it is pending. */
  position(conversion: Conversion): number | undefined {
    const at = this.#queue.findIndex((queued) => queued.conversion === conversion)
    return at < 0 ? undefined : at + 1
  }

  /** Ends all and waits for them. */
  async close(): Promise<void> {
    this.#closed = true
    const active = [...this.#active.values()]
    for (const { aborter } of active)
      aborter.abort(new HypemanError('canceled', 'the server is stopping; pull the image again when it is back'))
    this.#next()
    await Promise.all(active.map(({ ended }) => ended))
  }

  #next(): void {
    while (this.#running < this.#atOnce || this.#closed) {
      const queued = this.#queue.shift()
      if (queued === undefined) return
      this.#running += 1
      void this.#run(queued.conversion, queued.source)
    }
  }

  async #run(conversion: Conversion, source: BlobSource): Promise<void> {
    try {
      await using _blobs = source
      conversion.aborter.signal.throwIfAborted()
      this.#become(conversion, 'pulling')
      const record = await this.#hooks.convert(conversion, source, {
        fetched: (doneBytes) => {
          conversion.doneBytes = conversion.totalBytes === undefined ? doneBytes : Math.min(doneBytes, conversion.totalBytes)
          this.#hooks.changed(conversion)
        },
        converting: () => this.#become(conversion, 'converting'),
      })
      await this.#hooks.commit(conversion, record)
      for (const name of conversion.wishes.keys()) if (this.#byName.get(name) === conversion) this.#byName.delete(name)
      this.#active.delete(conversion.digest)
      this.#become(conversion, 'ready')
    } catch (error) {
      conversion.error = error
      this.#active.delete(conversion.digest)
      this.#become(conversion, 'failed')
    } finally {
      this.#running -= 1
      conversion.end()
      this.#next()
    }
  }

  #become(conversion: Conversion, status: ImageStatus): void {
    conversion.status = status
    this.#hooks.changed(conversion)
  }
}

/** What waits under a name or one of its aliases. */
export function wishOf(conversion: Conversion, name: string): Wish | undefined {
  return conversion.wishes.get(name) ?? [...conversion.wishes.values()].find(({ aliases }) => aliases.includes(name))
}
