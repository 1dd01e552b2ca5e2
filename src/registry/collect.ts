// Forgets what was pushed once its image was removed: tags first, then manifests and blobs that nothing names.

import type { Logger } from 'pino'
import { isHypemanError } from '../api/errors.ts'
import { isRunnable, parseManifest, type ImageManifest, type IndexManifest } from '../images/index.ts'
import type { PushTarget } from '../images/types.ts'
import type { BlobStore } from './blobs.ts'
import { nameIn } from './pushed.ts'
import type { Repository, RepositoryStore } from './repositories.ts'

/** How long a blob or manifest that nothing names is kept for a push that is under way, in milliseconds. */
const UNNAMED_KEPT_MS = 3_600_000

/** The caller lets no repository change meanwhile. */
export async function collectUnused(blobs: BlobStore, repositories: RepositoryStore, images: PushTarget, log: Logger): Promise<void> {
  const collector = new Collector(blobs, images, Date.now() - UNNAMED_KEPT_MS)
  for (const repository of repositories.all()) {
    const kept = await collector.keep(repository)
    if (JSON.stringify(kept) !== JSON.stringify(repository)) await repositories.put(kept)
  }
  const removed = await blobs.removeUnneeded(collector.needed, collector.youngSince)
  if (removed.length > 0) log.info({ blobs: removed.length }, 'blobs that no pushed image needs were removed')
}

/** Whether a pushed name still means an image here: ready, on its way or failed. */
export function hasImage(images: PushTarget, name: string): boolean {
  try {
    images.get(name)
    return true
  } catch (error) {
    if (isHypemanError(error, 'not_found')) return false
    throw error
  }
}

/** Whether a tag's manifest is still wanted: what is no image has nothing in the list of images that could be removed. */
export async function isWanted(blobs: BlobStore, images: PushTarget, name: string, digest: string): Promise<boolean> {
  const manifest = await read(blobs, digest)
  return (manifest?.kind === 'image' && !isRunnable(manifest)) || hasImage(images, name)
}

async function read(blobs: BlobStore, digest: string): Promise<ImageManifest | IndexManifest | undefined> {
  const blob = await blobs.peek(digest)
  return blob === undefined ? undefined : parseManifest(await blob.read(), `the manifest ${digest}`)
}

class Collector {
  readonly #blobs: BlobStore
  readonly #images: PushTarget
  /** Milliseconds since 1970. */
  readonly youngSince: number
  /** Digests of all blobs that what is kept names. */
  readonly needed = new Set<string>()

  constructor(blobs: BlobStore, images: PushTarget, youngSince: number) {
    this.#blobs = blobs
    this.#images = images
    this.youngSince = youngSince
  }

  /** The repository without what is no longer wanted. */
  async keep(repository: Repository): Promise<Repository> {
    const tags: Record<string, string> = {}
    const reached = new Set<string>()
    for (const [tag, digest] of Object.entries(repository.tags))
      if (await isWanted(this.#blobs, this.#images, nameIn(repository.name, tag), digest)) {
        tags[tag] = digest
        await this.#reach(digest, repository, reached)
      }
    for (const digest of Object.keys(repository.manifests)) {
      const blob = await this.#blobs.peek(digest)
      const young = blob !== undefined && blob.modifiedMs >= this.youngSince
      if (young || hasImage(this.#images, nameIn(repository.name, digest))) await this.#reach(digest, repository, reached)
    }
    const manifests = Object.fromEntries(Object.entries(repository.manifests).filter(([digest]) => reached.has(digest)))
    return { ...repository, tags, manifests }
  }

  async #reach(digest: string, repository: Repository, reached: Set<string>): Promise<void> {
    if (reached.has(digest) || repository.manifests[digest] === undefined) return
    reached.add(digest)
    this.needed.add(digest)
    const manifest = await read(this.#blobs, digest)
    if (manifest?.kind === 'index') for (const child of manifest.manifests) await this.#reach(child.digest, repository, reached)
    else if (manifest !== undefined) for (const blob of [manifest.config, ...manifest.layers]) this.needed.add(blob.digest)
  }
}
