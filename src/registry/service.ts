// What may be asked of the registry: blobs, uploads, manifests, tags. A pushed image is converted by images/; here it is only kept.

import type { Readable } from 'node:stream'
import type { Logger } from 'pino'
import { isHypemanError } from '../api/errors.ts'
import type { Unreadable } from '../api/schemas/unreadable.ts'
import type { DataLayout } from '../files/layout.ts'
import {
  digestOf,
  isDigest,
  LONGEST_MANIFEST,
  parseManifest,
  parseReference,
  type ImageManifest,
  type IndexManifest,
} from '../images/index.ts'
import type { PushTarget } from '../images/types.ts'
import { nothingHeld, type Holding } from '../platform/capacity.ts'
import { loggedFlow, messageOf, step, type FaultPlan, type OpenFlow } from '../platform/flow.ts'
import { BlobStore, type BlobUpload } from './blobs.ts'
import { collectUnused, hasImage, isWanted } from './collect.ts'
import { imageOf, nameIn } from './pushed.ts'
import { RepositoryStore, type Repository } from './repositories.ts'
import { OciError, type ManifestUpload, type RegistryService, type StoredBlob, type StoredManifest, type UploadState } from './types.ts'

export interface RegistryOptions {
  readonly layout: DataLayout
  readonly log: Logger
  readonly images: PushTarget
  /** Of this host: `linux/amd64`. */
  readonly platform: string
  /** Largest blob, bytes. */
  readonly maxBlobBytes?: number
  readonly faults?: FaultPlan | undefined
}

/** How the stream of a body fails whose client is gone. */
const CLIENT_LEFT = 'ECONNRESET'
const DEFAULT_MAX_BLOB_BYTES = 64 * 1024 ** 3
/** How long an upload may rest between two requests, in milliseconds. */
const UPLOAD_REST_MS = 24 * 3_600_000
const MOST_UPLOADS = 1_000

export class Registry implements RegistryService {
  readonly maxManifestBytes = LONGEST_MANIFEST
  readonly #options: RegistryOptions
  readonly #blobs: BlobStore
  readonly #repositories: RepositoryStore
  readonly #uploads = new Map<string, { readonly repository: string; readonly upload: BlobUpload }>()
  #changing: Promise<unknown> = Promise.resolve()

  constructor(options: RegistryOptions) {
    this.#options = options
    this.#blobs = new BlobStore(options.layout, options.maxBlobBytes ?? DEFAULT_MAX_BLOB_BYTES)
    this.#repositories = new RepositoryStore(options.layout, options.log)
  }

  async open(): Promise<void> {
    await this.#blobs.open()
    await this.#repositories.load()
    await this.#resume()
    this.#options.images.onRemoved(() => this.#tidy())
    this.#tidy()
  }

  async blob(repository: string, digest: string): Promise<StoredBlob> {
    checkRepository(repository)
    const blob = await this.#blobs.find(digest)
    if (blob === undefined) throw new OciError('BLOB_UNKNOWN', `there is no blob ${digest}`)
    return blob
  }

  async manifest(repository: string, reference: string): Promise<StoredManifest> {
    checkRepository(repository)
    const record = this.#repositories.find(repository)
    const digest = isDigest(reference) ? reference : record?.tags[reference]
    const mediaType = digest === undefined ? undefined : record?.manifests[digest]
    const blob = digest === undefined || mediaType === undefined ? undefined : await this.#blobs.find(digest)
    if (blob === undefined || mediaType === undefined) throw new OciError('MANIFEST_UNKNOWN', `${repository} has no manifest ${reference}`)
    return { ...blob, mediaType }
  }

  async pushed(repository: string, reference: string): Promise<StoredManifest> {
    const stored = await this.manifest(repository, reference)
    const { images } = this.#options
    const name = nameIn(repository, reference)
    const isDone = hasImage(images, name)
      ? images.get(name).status !== 'failed'
      : isDigest(reference) || (await isWanted(this.#blobs, images, name, stored.digest))
    if (!isDone) throw new OciError('MANIFEST_UNKNOWN', `the image ${name} has failed or was removed; push it again`)
    return stored
  }

  tags(repository: string): readonly string[] {
    checkRepository(repository)
    const record = this.#repositories.find(repository)
    if (record === undefined) throw new OciError('NAME_UNKNOWN', `nothing was pushed to ${repository}`)
    return Object.keys(record.tags).toSorted()
  }

  async startUpload(repository: string): Promise<UploadState> {
    checkRepository(repository)
    await this.#endResting()
    if (this.#uploads.size >= MOST_UPLOADS)
      throw new OciError('DENIED', `${MOST_UPLOADS} uploads are under way; finish or cancel one, then start another`)
    await using undo = new AsyncDisposableStack()
    using flow = this.#push(repository)
    const upload = await step(flow, 'start', async () => undo.use(await this.#blobs.startUpload()))
    undo.move()
    this.#uploads.set(upload.id, { repository, upload })
    return stateOf(upload)
  }

  upload(repository: string, id: string): UploadState {
    return stateOf(this.#uploadOf(repository, id))
  }

  async appendUpload(repository: string, id: string, chunk: Readable, from: number | undefined): Promise<UploadState> {
    const upload = this.#uploadOf(repository, id)
    if (from !== undefined && from !== upload.offset)
      throw new OciError('RANGE_INVALID', `the chunk begins at ${from}, and ${upload.offset} bytes are here`)
    await this.#receive(repository, upload, chunk)
    return stateOf(upload)
  }

  async finishUpload(repository: string, id: string, digest: string, rest: Readable): Promise<StoredBlob> {
    const upload = this.#uploadOf(repository, id)
    await this.#receive(repository, upload, rest)
    // Another request can't use it any more, and it ends with this one, well or not.
    this.#uploads.delete(id)
    await using _ended = upload
    using flow = this.#push(repository)
    return await step(flow, 'blob', () => this.#blobs.commit(upload, digest))
  }

  async cancelUpload(repository: string, id: string): Promise<void> {
    const upload = this.#uploadOf(repository, id)
    this.#uploads.delete(id)
    await upload[Symbol.asyncDispose]()
  }

  async putManifest(upload: ManifestUpload): Promise<StoredManifest> {
    const { repository, reference, body } = upload
    checkRepository(repository)
    checkReference(repository, reference)
    const manifest = parseBody(upload)
    if (manifest.kind === 'image') await this.#checkBlobs(manifest)
    const digest = digestOf(body)
    if (isDigest(reference) && reference !== digest)
      throw new OciError('DIGEST_INVALID', `the manifest has the digest ${digest}, not ${reference}`)
    using flow = this.#push(repository)
    const blob = await step(flow, 'manifest', () => this.#blobs.write(body))
    const stored = { ...blob, mediaType: mediaTypeOf(upload.mediaType, manifest) }
    await this.#change(async () => {
      const before: Repository = this.#repositories.find(repository) ?? { version: 1, name: repository, manifests: {}, tags: {} }
      const tags = isDigest(reference) ? before.tags : { ...before.tags, [reference]: stored.digest }
      const after = { ...before, tags, manifests: { ...before.manifests, [stored.digest]: stored.mediaType } }
      await step(flow, 'record', () => this.#repositories.put(after))
      await step(flow, 'register', () => this.#register(repository, reference, upload.host))
      // The parts of an index came before it, by digest; from now on its tag names them.
      const parts = manifest.kind === 'index' && !isDigest(reference) ? manifest.manifests : []
      for (const { digest: part } of parts) await this.#options.images.forget(nameIn(repository, part))
    })
    return stored
  }

  held(): Holding {
    return { ...nothingHeld, kind: 'cache', id: 'registry', name: 'of pushed images', disk: this.#blobs.totalBytes() }
  }

  unreadable(): readonly Unreadable[] {
    return this.#repositories.unreadable()
  }

  collectUnused(): Promise<void> {
    return this.#change(async () => {
      // A record that can't be read may name anything.
      if (this.#repositories.unreadable().length > 0) return
      const { images, log } = this.#options
      using flow = loggedFlow(this.#options, 'registry.collect', {})
      await step(flow, 'remove', () => collectUnused(this.#blobs, this.#repositories, images, log))
    })
  }

  async close(): Promise<void> {
    const uploads = [...this.#uploads.values()]
    this.#uploads.clear()
    for (const { upload } of uploads) await upload[Symbol.asyncDispose]()
    await this.#changing
  }

  /** Collects in the background; what can't be removed now is tried again after the next removal. */
  #tidy(): void {
    this.collectUnused().catch((error: unknown) =>
      this.#options.log.warn({ reason: messageOf(error) }, 'pushed blobs could not be removed'),
    )
  }

  /** Pushed images whose conversion a stop of the server ended begin anew. */
  async #resume(): Promise<void> {
    const { images, log } = this.#options
    for (const { name, tags } of this.#repositories.all())
      for (const tag of Object.keys(tags))
        try {
          if (!hasImage(images, nameIn(name, tag))) await this.#register(name, tag, undefined)
        } catch (error) {
          log.error({ repository: name, tag, reason: messageOf(error) }, "a pushed image can't be made")
        }
  }

  async #register(repository: string, reference: string, host: string | undefined): Promise<void> {
    const stored = await this.manifest(repository, reference)
    const image = await imageOf(this.#blobs, stored, { repository, reference, host }, this.#options.platform)
    if (image !== undefined) await this.#options.images.registerPushed(image)
  }

  async #checkBlobs(manifest: ImageManifest): Promise<void> {
    for (const { digest, urls } of [manifest.config, ...manifest.layers])
      if (urls === undefined && (await this.#blobs.find(digest)) === undefined)
        throw new OciError('MANIFEST_BLOB_UNKNOWN', `the manifest names the blob ${digest}, which was not pushed`)
  }

  /** An upload that a client broke off, or asked something impossible of, can be gone on with. What failed here is given up, so that its room is free. */
  async #receive(repository: string, upload: BlobUpload, chunk: Readable): Promise<void> {
    try {
      using flow = this.#push(repository)
      await step(flow, 'receive', () => upload.append(chunk))
    } catch (error) {
      if (error instanceof OciError || (error instanceof Error && 'code' in error && error.code === CLIENT_LEFT)) throw error
      this.#uploads.delete(upload.id)
      await upload[Symbol.asyncDispose]()
      throw error
    }
  }

  #push(repository: string): OpenFlow {
    return loggedFlow(this.#options, 'registry.push', { repository })
  }

  #uploadOf(repository: string, id: string): BlobUpload {
    checkRepository(repository)
    const found = this.#uploads.get(id)
    if (found?.repository === repository) return found.upload
    throw new OciError('BLOB_UPLOAD_UNKNOWN', `there is no upload ${id} to ${repository}; start another`)
  }

  async #endResting(): Promise<void> {
    for (const [id, { upload }] of this.#uploads) {
      if (upload.busy || Date.now() - upload.touchedAt < UPLOAD_REST_MS) continue
      this.#uploads.delete(id)
      await upload[Symbol.asyncDispose]()
    }
  }

  /** Runs changes of repositories one after the other. */
  #change<T>(act: () => Promise<T>): Promise<T> {
    const result = this.#changing.then(act, act)
    // Its failure is for who called; the next one runs all the same.
    this.#changing = result.catch(() => undefined)
    return result
  }
}

function stateOf({ id, offset }: BlobUpload): UploadState {
  return { id, offset }
}

/** Repositories are named as references name them, a registry's host before the path included. */
function checkRepository(repository: string): void {
  try {
    if (parseReference(`${repository}:latest`).digest === undefined) return
  } catch (cause) {
    throw new OciError('NAME_INVALID', messageOf(cause), { cause })
  }
}

function checkReference(repository: string, reference: string): void {
  try {
    parseReference(nameIn(repository, reference))
  } catch (cause) {
    throw new OciError(reference.includes(':') ? 'DIGEST_INVALID' : 'TAG_INVALID', messageOf(cause), { cause })
  }
}

function parseBody({ repository, reference, body }: ManifestUpload): ImageManifest | IndexManifest {
  if (body.length > LONGEST_MANIFEST) throw new OciError('SIZE_INVALID', 'a manifest may have at most 4 MiB')
  try {
    return parseManifest(body, `the manifest of ${nameIn(repository, reference)}`)
  } catch (error) {
    throw isHypemanError(error) ? new OciError('MANIFEST_INVALID', error.message, { cause: error }) : error
  }
}

/** What the client says it is, without parameters; else what it is. */
function mediaTypeOf(said: string | undefined, manifest: ImageManifest | IndexManifest): string {
  const type = said?.split(';')[0]?.trim() ?? ''
  if (/^application\/vnd\.(?:oci\.image|docker\.distribution)\./.test(type)) return type
  return manifest.kind === 'image' ? 'application/vnd.oci.image.manifest.v1+json' : 'application/vnd.oci.image.index.v1+json'
}
