// The images that are here and those on their way, and every change of what a name means: put, convert, commit, remove, collect.
// Changes happen one after the other, so what was checked still holds. Where blobs come from is the service's business.

import type { Logger } from 'pino'
import { HypemanError, isHypemanError } from '../api/errors.ts'
import type { DataLayout } from '../files/layout.ts'
import { loggedFlow, messageOf, step, type FaultPlan, type FlowContext } from '../platform/flow.ts'
import { convertImage, type ConversionContext } from './convert.ts'
import { Conversions, type Conversion, type ConversionRequest, type Wish } from './conversions.ts'
import { digestOf, ImageFinder, nameOf, type Found } from './find.ts'
import { ProgressHub } from './progress.ts'
import type { ImageRecord } from './records.ts'
import type { TakenIn } from './sources.ts'
import { ImageStore, Serial } from './store.ts'
import type { Image, ImageProgress } from './types.ts'

export interface CatalogOptions {
  readonly layout: DataLayout
  readonly log: Logger
  readonly platform: string
  readonly maxUnpackedBytes: number
  readonly atOnce: number
  readonly faults: FaultPlan | undefined
  inUse(digest: string): boolean
}

export class ImageCatalog {
  readonly #options: CatalogOptions
  readonly #serial = new Serial()
  readonly #hub = new ProgressHub()
  readonly #holds = new Map<string, number>()
  #mayCollect = false
  readonly store: ImageStore
  readonly conversions: Conversions
  readonly finder: ImageFinder

  constructor(options: CatalogOptions) {
    this.#options = options
    this.store = new ImageStore(options.layout, options.log)
    this.conversions = new Conversions(
      {
        convert: async (conversion, source, progress) => {
          using flow = loggedFlow(this.#options, 'image.convert', { image: titleOf(conversion) }, conversion.aborter.signal)
          return await convertImage(this.#contextOf(flow, conversion.digest), source, conversion.digest, titleOf(conversion), progress)
        },
        commit: (conversion, record) => this.#serial.run(() => this.#commit(conversion, record)),
        changed: (conversion) => this.#announce(conversion),
      },
      options.atOnce,
    )
    this.finder = new ImageFinder(options.layout, this.store, this.conversions)
  }

  /** Gives a name to an image that is here, or converts it first, in the background. Takes the blobs over. */
  async convert(blobs: TakenIn, wish: Wish): Promise<Image> {
    const { digest } = blobs
    await using owner = new AsyncDisposableStack()
    owner.use(blobs)
    for (;;) {
      await this.conversions.settled(digest)
      const image = await this.#serial.run(async () => {
        if (await this.#isKept(digest)) return await this.#put(digest, wish)
        const active = this.conversions.active(digest)
        if (active?.aborter.signal.aborted === true) return undefined
        if (active === undefined) this.conversions.start(() => this.#requestOf(blobs, owner), wish)
        else this.conversions.join(active, wish)
        return this.#viewOf(wish.name)
      })
      if (image !== undefined) return image
    }
  }

  /** Blobs of which some are lost are taken in again. */
  async #isKept(digest: string): Promise<boolean> {
    try {
      return (await this.store.kept(digest)) !== undefined
    } catch (error) {
      if (isHypemanError(error, 'conflict')) return false
      throw error
    }
  }

  #requestOf(blobs: TakenIn, owner: AsyncDisposableStack): ConversionRequest {
    const { digest, totalBytes } = blobs
    const owned = owner.move()
    return {
      digest,
      totalBytes,
      platform: this.#options.platform,
      source: { bring: (...toward) => blobs.bring(...toward), [Symbol.asyncDispose]: () => owned.disposeAsync() },
    }
  }

  /** Makes a name mean an image that is here. */
  put(digest: string, wish: Wish): Promise<Image> {
    return this.#serial.run(() => this.#put(digest, wish))
  }

  async #put(digest: string, wish: Wish): Promise<Image> {
    const before = this.store.reference(wish.name)
    this.conversions.detach(wish.name)
    await this.#putReference(digest, wish)
    if (before !== undefined && before.digest !== digest) await this.#collect(before.digest)
    return this.#viewOf(wish.name)
  }

  /** Gives a further name to an image that is here or on its way. */
  tag(name: string, wish: Wish): Promise<Image> {
    return this.#serial.run(async () => {
      const [found] = this.finder.matching(name)
      const { tags } = found.kind === 'reference' ? found.record : found.wish
      if (found.kind === 'reference' || found.conversion.status === 'failed')
        return await this.#put(this.finder.ready(found).digest, { ...wish, tags })
      this.conversions.join(found.conversion, { ...wish, tags })
      return this.#viewOf(wish.name)
    })
  }

  /** Removes a name, or all names of a digest. */
  remove(name: string): Promise<void> {
    return this.#serial.run(async () => {
      for (const found of this.finder.matching(name)) await this.#removeName(found)
    })
  }

  /** Removes just the name, which is normal, if it is there. */
  forget(name: string): Promise<void> {
    return this.#serial.run(async () => {
      const found = this.finder.exact(name)
      if (found !== undefined && nameOf(found) === name) await this.#removeName(found)
    })
  }

  async #removeName(found: Found): Promise<void> {
    // A pull of another digest may be under way for the name.
    const digests = new Set([digestOf(found), this.store.reference(nameOf(found))?.digest ?? digestOf(found)])
    this.conversions.detach(nameOf(found))
    using flow = loggedFlow(this.#options, 'image.delete', { image: nameOf(found) })
    await step(flow, 'remove', () => this.store.dropReference(nameOf(found)))
    for (const digest of digests) await this.#collect(digest)
  }

  /** From now on root file systems that nobody needs are removed. Not before: until all users are known, each is needed. */
  startCollecting(): void {
    this.#mayCollect = true
  }

  collectUnused(): Promise<void> {
    return this.#serial.run(async () => {
      for (const { digest } of this.store.images()) await this.#collect(digest)
    })
  }

  hold(digest: string): Disposable {
    this.#holds.set(digest, (this.#holds.get(digest) ?? 0) + 1)
    let held = true
    return {
      [Symbol.dispose]: () => {
        const others = (this.#holds.get(digest) ?? 1) - 1
        if (held && others > 0) this.#holds.set(digest, others)
        else if (held) this.#holds.delete(digest)
        held = false
      },
    }
  }

  progress(signal: AbortSignal): AsyncIterable<ImageProgress> {
    return this.#hub.listen(
      this.conversions.all().flatMap((conversion) => (conversion.status === 'failed' ? [] : piecesOf(conversion))),
      signal,
    )
  }

  async close(): Promise<void> {
    await this.conversions.close()
    await this.#serial.run(() => Promise.resolve())
  }

  async #commit(conversion: Conversion, record: ImageRecord): Promise<void> {
    this.store.addImage(record)
    const before = [...conversion.wishes.keys()].flatMap((name) => this.store.reference(name)?.digest ?? [])
    try {
      for (const wish of conversion.wishes.values()) await this.#putReference(record.digest, wish)
    } finally {
      for (const digest of new Set([record.digest, ...before])) await this.#collect(digest, conversion)
    }
  }

  async #putReference(digest: string, wish: Wish): Promise<void> {
    const before = this.store.reference(wish.name)
    const aliases = [...new Set([...(before?.aliases ?? []), ...wish.aliases])]
    const createdAt = before?.digest === digest ? before.createdAt : wish.createdAt
    using flow = loggedFlow(this.#options, 'image.name', { image: wish.name })
    await using undo = new AsyncDisposableStack()
    undo.defer(async () => {
      const now = this.store.reference(wish.name)
      if (now === before || now?.name !== wish.name) return
      await (before?.name === wish.name ? this.store.putReference(before) : this.store.dropReference(wish.name))
    })
    await step(flow, 'record', () => this.store.putReference({ version: 1, digest, ...wish, aliases, createdAt }))
    undo.move()
  }

  /** Removes a root file system if no name, no conversion but `ending` and no user needs it. */
  async #collect(digest: string, ending?: Conversion): Promise<void> {
    const active = this.conversions.active(digest)
    if (!this.#mayCollect || this.store.image(digest) === undefined || (active !== undefined && active !== ending)) return
    // A reference that can't be read may name any image.
    if (this.store.unreadable().some(({ kind }) => kind === 'image reference')) return
    if (this.store.references().some((reference) => reference.digest === digest)) return
    if (this.#holds.has(digest) || this.#options.inUse(digest)) return
    using flow = loggedFlow(this.#options, 'image.collect', { digest })
    await step(flow, 'remove', () => this.store.dropImage(digest))
    this.#options.log.info({ digest }, 'a root file system that nothing needs was removed')
  }

  #announce(conversion: Conversion): void {
    for (const piece of piecesOf(conversion)) this.#hub.publish(piece)
    if (conversion.status === 'failed')
      this.#options.log.warn({ image: titleOf(conversion), reason: messageOf(conversion.error) }, 'an image could not be made')
  }

  #viewOf(name: string): Image {
    const found = this.finder.exact(name)
    if (found === undefined) throw new HypemanError('not_found', `the image ${name} was removed meanwhile`)
    return this.finder.view(found)
  }

  #contextOf(flow: FlowContext, digest: string): ConversionContext {
    const { layout, platform, maxUnpackedBytes } = this.#options
    const { store } = this
    return { layout, platform, limits: { maxUnpackedBytes }, flow, present: store.image(digest), keptBlobs: store.keptBlobs() }
  }
}

function titleOf(conversion: Conversion): string {
  return conversion.wishes.keys().next().value ?? conversion.digest
}

const messages = {
  pending: 'waiting for other images',
  pulling: 'fetching the layers',
  converting: 'making the root file system',
  ready: 'ready',
  failed: 'failed',
} as const

function piecesOf(conversion: Conversion): ImageProgress[] {
  const { status, doneBytes, totalBytes, errorMessage } = conversion
  return [...conversion.wishes.keys()].map((name) => ({ name, status, message: errorMessage ?? messages[status], doneBytes, totalBytes }))
}
