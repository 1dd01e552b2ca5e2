// What may be asked of images: pull, import, take in a push, find, tag, remove. Decides where blobs come from; what is here and how names
// change is catalog.ts, the flow from blobs to a root file system is convert.ts.

import { randomBytes } from 'node:crypto'
import { setMaxListeners } from 'node:events'
import type { Readable } from 'node:stream'
import type { Logger } from 'pino'
import { HypemanError, isHypemanError } from '../api/errors.ts'
import { matchesTags } from '../api/schemas/common.ts'
import type { Unreadable } from '../api/schemas/unreadable.ts'
import type { DataLayout } from '../files/layout.ts'
import { createStaged } from '../files/stage.ts'
import { nothingHeld, type Holding } from '../platform/capacity.ts'
import { loggedFlow, messageOf, step, type FaultPlan } from '../platform/flow.ts'
import { archivedDigest } from './archive.ts'
import { ImageCatalog } from './catalog.ts'
import type { Wish } from './conversions.ts'
import { nameOf, type Found } from './find.ts'
import type { ReferenceRecord } from './records.ts'
import { parseReference, type Reference } from './reference.ts'
import { resolveImage, type ResolvedImage } from './resolve.ts'
import { archiveSource, pushedSource, registrySource, type Intake } from './sources.ts'
import type { Image, ImageProgress, ImageService, KeptImage, PullRequest, PushedImage, PushTarget, ReadyImage } from './types.ts'

export interface ImageServiceOptions {
  readonly layout: DataLayout
  readonly log: Logger
  /** Of this host: `linux/amd64`. */
  readonly platform: string
  /** Whether an instance or a snapshot needs the root file system of a digest. Not asked while the service opens, so that users may be read later. */
  inUse(digest: string): boolean
  /** Absolute path of the OCI archive of `hypeman/base`. */
  readonly baseArchive: string | undefined
  readonly maxConcurrentPulls?: number
  /** Largest image when unpacked, and largest archive, bytes. */
  readonly maxUnpackedBytes?: number
  readonly faults?: FaultPlan | undefined
}

const BASE_IMAGE = 'docker.io/hypeman/base:latest'

const DEFAULT_PULLS_AT_ONCE = 3
const DEFAULT_MAX_UNPACKED_BYTES = 64 * 1024 ** 3

export class Images implements ImageService, PushTarget {
  readonly #options: ImageServiceOptions
  readonly #maxUnpackedBytes: number
  readonly #catalog: ImageCatalog
  readonly #closing = new AbortController()
  readonly #removalListeners: (() => void)[] = []

  constructor(options: ImageServiceOptions) {
    this.#options = options
    this.#maxUnpackedBytes = options.maxUnpackedBytes ?? DEFAULT_MAX_UNPACKED_BYTES
    this.#catalog = new ImageCatalog({
      layout: options.layout,
      log: options.log,
      platform: options.platform,
      maxUnpackedBytes: this.#maxUnpackedBytes,
      atOnce: options.maxConcurrentPulls ?? DEFAULT_PULLS_AT_ONCE,
      faults: options.faults,
      inUse: (digest) => options.inUse(digest),
    })
    // Every request that is under way listens to it.
    setMaxListeners(0, this.#closing.signal)
  }

  /** Reads what is on disk and makes the base image available. */
  async open(): Promise<void> {
    await this.#catalog.store.load()
    await this.#openBase()
    this.#catalog.startCollecting()
  }

  async #openBase(): Promise<void> {
    const { baseArchive, log } = this.#options
    if (baseArchive === undefined) return
    try {
      const digest = await archivedDigest(baseArchive, this.#closing.signal)
      const known = this.#catalog.store.reference(BASE_IMAGE)
      if (known !== undefined && known.digest === digest && (await this.#catalog.store.kept(digest)) !== undefined) return
      await this.#catalog.convert(await archiveSource(this.#intake(), baseArchive, BASE_IMAGE), wishFor(BASE_IMAGE, 'local'))
      await this.waitReady(BASE_IMAGE, this.#closing.signal)
    } catch (error) {
      // Everything but the default image works without it.
      log.error({ archive: baseArchive, reason: messageOf(error) }, 'the image hypeman/base is not available')
    }
  }

  async pull(request: PullRequest): Promise<Image> {
    const { log, platform } = this.#options
    const { store, finder } = this.#catalog
    const reference = parseReference(request.name)
    if (request.platform !== undefined && request.platform !== platform)
      throw new HypemanError('invalid_platform', `platform: this server runs ${platform} images, not ${request.platform}`)
    const here = finder.exact(reference.name)
    // What was made here is what its name means here; and a digest can't come to name something else.
    if (
      here?.kind === 'reference' &&
      (here.record.origin === 'local' || (reference.digest !== undefined && (await store.kept(here.record.digest)) !== undefined)) &&
      finder.readyOf(here.record) !== undefined
    )
      return await this.#keep(here.record, request)
    if (here?.kind === 'conversion' && here.wish.origin === 'local' && here.conversion.status !== 'failed') return finder.view(here)
    const known = store.reference(reference.name)
    try {
      using flow = loggedFlow(this.#options, 'image.pull', { image: reference.name })
      const resolved = await step(flow, 'resolve', () => this.#resolve(reference, request))
      return await this.#catalog.convert(registrySource(reference, resolved, request.credentials), {
        ...wishFor(reference.name, 'registry'),
        tags: request.tags ?? known?.tags ?? {},
      })
    } catch (error) {
      const offline = isHypemanError(error, 'registry_unavailable') || isHypemanError(error, 'rate_limited')
      if (!offline || known === undefined || finder.readyOf(known) === undefined) throw error
      log.warn(
        { image: known.name, digest: known.digest, reason: error.message },
        'the registry is out of reach; the image that is here stays',
      )
      return await this.#keep(known, request)
    }
  }

  /** The image that a name means already, with the request's tags. */
  async #keep(known: ReferenceRecord, { tags }: PullRequest): Promise<Image> {
    const { name, origin, createdAt, aliases, digest } = known
    return tags === undefined ? this.get(name) : await this.#catalog.put(digest, { name, origin, createdAt, aliases, tags })
  }

  async #resolve(reference: Reference, { credentials }: PullRequest): Promise<ResolvedImage> {
    const { layout, platform } = this.#options
    await using staged = await createStaged(layout, `resolve-${randomBytes(8).toString('hex')}`)
    return await resolveImage({ reference, platform, credentials, directory: staged.path, signal: this.#closing.signal })
  }

  async importArchive(name: string, archive: Readable, tags: Readonly<Record<string, string>> = {}): Promise<Image> {
    const reference = taggedReference(name)
    using flow = loggedFlow(this.#options, 'image.import', { image: reference.name })
    await using undo = new AsyncDisposableStack()
    const source = await step(flow, 'receive', async () => undo.use(await archiveSource(this.#intake(), archive, reference.name)))
    undo.move()
    return await this.#catalog.convert(source, { ...wishFor(reference.name, 'local'), tags })
  }

  async registerPushed(pushed: PushedImage): Promise<Image> {
    const { name } = parseReference(pushed.name)
    const aliases = pushed.aliases.map((alias) => parseReference(alias).name).filter((alias) => alias !== name)
    const tags = this.#catalog.store.reference(name)?.tags ?? {}
    return await this.#catalog.convert(pushedSource(pushed), { ...wishFor(name, 'local'), aliases, tags })
  }

  list(filter: { readonly tags?: Readonly<Record<string, string>> | undefined } = {}): readonly Image[] {
    const { finder } = this.#catalog
    return finder
      .all()
      .map((found) => finder.view(found))
      .filter(({ tags }) => matchesTags(tags, filter.tags))
  }

  unreadable(): readonly Unreadable[] {
    return this.#catalog.store.unreadable()
  }

  get(name: string): Image {
    return this.#catalog.finder.view(this.#catalog.finder.matching(name)[0])
  }

  ready(name: string): ReadyImage {
    return this.#catalog.finder.ready(this.#catalog.finder.matching(name)[0])
  }

  byDigest(digest: string): ReadyImage | undefined {
    return this.#catalog.finder.byDigest(digest)
  }

  kept(digest: string): Promise<KeptImage | undefined> {
    return this.#catalog.store.kept(digest)
  }

  async tag(name: string, target: string): Promise<Image> {
    return await this.#catalog.tag(name, wishFor(taggedReference(target).name, 'local'))
  }

  async remove(name: string): Promise<void> {
    await this.#catalog.remove(name)
    for (const listener of this.#removalListeners) listener()
  }

  forget(name: string): Promise<void> {
    return this.#catalog.forget(parseReference(name).name)
  }

  onRemoved(listener: () => void): void {
    this.#removalListeners.push(listener)
  }

  async waitReady(name: string, signal: AbortSignal): Promise<ReadyImage> {
    const { finder } = this.#catalog
    const [first] = finder.matching(name)
    for (let found: Found | undefined = first; found?.kind === 'conversion'; found = finder.exact(nameOf(first))) {
      const { conversion } = found
      await untilAborted(conversion.ended, signal)
      if (conversion.status === 'failed')
        throw isHypemanError(conversion.error)
          ? conversion.error
          : new HypemanError('internal_error', `the image ${nameOf(first)} could not be converted`, { cause: conversion.error })
    }
    return this.ready(nameOf(first))
  }

  progress(signal: AbortSignal): AsyncIterable<ImageProgress> {
    return this.#catalog.progress(AbortSignal.any([signal, this.#closing.signal]))
  }

  collectUnused(): Promise<void> {
    return this.#catalog.collectUnused()
  }

  held(): readonly Holding[] {
    return this.#catalog.store
      .images()
      .map(({ digest, sizeBytes }) => ({ ...nothingHeld, kind: 'image', id: digest, name: digest, disk: sizeBytes }))
  }

  hold(digest: string): Disposable {
    return this.#catalog.hold(digest)
  }

  async close(): Promise<void> {
    this.#closing.abort(new HypemanError('canceled', 'the server is stopping; try again when it is back'))
    await this.#catalog.close()
  }

  #intake(): Intake {
    const { layout, platform } = this.#options
    return { layout, platform, maxBytes: this.#maxUnpackedBytes, signal: this.#closing.signal }
  }
}

function wishFor(name: string, origin: Wish['origin']): Wish {
  return { name, origin, createdAt: new Date().toISOString(), tags: {}, aliases: [] }
}

/** A reference that can be made to mean something: with a tag, not a digest. */
function taggedReference(text: string): Reference {
  const reference = parseReference(text)
  if (reference.digest === undefined) return reference
  throw new HypemanError('invalid_name', `${text} names a digest, which can't be chosen; give a tag such as ${reference.repository}:latest`)
}

/** Waits, but no longer than the signal allows; then throws its reason. */
async function untilAborted(ended: Promise<void>, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted()
  const { promise, reject } = Promise.withResolvers<never>()
  const abort = (): void => reject(signal.reason)
  signal.addEventListener('abort', abort, { once: true })
  try {
    await Promise.race([ended, promise])
  } finally {
    signal.removeEventListener('abort', abort)
  }
}
