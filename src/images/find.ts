// Which image a text means, and how it is shown: names in any spelling, aliases, digests; ready, on its way or failed.

import path from 'node:path'
import { HypemanError } from '../api/errors.ts'
import { imageFiles, type DataLayout } from '../files/layout.ts'
import { wishOf, type Conversion, type Conversions, type Wish } from './conversions.ts'
import type { ReferenceRecord } from './records.ts'
import { digestHex, isDigest, parseReference } from './reference.ts'
import type { ImageStore } from './store.ts'
import type { Image, ReadyImage } from './types.ts'

/** A name with what stands behind it: a conversion that is under way or failed, or a committed reference. */
export type Found =
  | { readonly kind: 'conversion'; readonly conversion: Conversion; readonly wish: Wish }
  | { readonly kind: 'reference'; readonly record: ReferenceRecord }

export class ImageFinder {
  readonly #layout: DataLayout
  readonly #store: ImageStore
  readonly #conversions: Conversions

  constructor(layout: DataLayout, store: ImageStore, conversions: Conversions) {
    this.#layout = layout
    this.#store = store
    this.#conversions = conversions
  }

  /** Everything, oldest first. */
  all(): Found[] {
    const waiting = this.#conversions
      .all()
      .flatMap((conversion) => [...conversion.wishes.values()].map((wish): Found => ({ kind: 'conversion', conversion, wish })))
    const names = new Set(waiting.map(nameOf))
    const committed = this.#store.references().flatMap((record): Found[] => (names.has(record.name) ? [] : [{ kind: 'reference', record }]))
    return [...waiting, ...committed].toSorted((one, other) => createdAt(one).localeCompare(createdAt(other)))
  }

  /** All names that a text means: one for a name, any number for a digest. `not_found` if there is none, `invalid_name` if it can't be one. */
  matching(text: string): readonly [Found, ...Found[]] {
    const matches = isDigest(text) ? this.all().filter((found) => digestOf(found) === text) : this.#named(text)
    const [first, ...others] = matches
    if (first === undefined) throw new HypemanError('not_found', `there is no image ${JSON.stringify(text)}; hypeman image list shows all`)
    return [first, ...others]
  }

  #named(text: string): Found[] {
    const { name, digest, repository } = parseReference(text)
    const exact = this.exact(name)
    if (exact !== undefined || digest === undefined) return exact === undefined ? [] : [exact]
    return this.all().filter((found) => digestOf(found) === digest && nameOf(found).startsWith(`${repository}:`))
  }

  /** By normal name or alias. */
  exact(name: string): Found | undefined {
    const conversion = this.#conversions.byName(name)
    const wish = conversion === undefined ? undefined : wishOf(conversion, name)
    if (conversion !== undefined && wish !== undefined) return { kind: 'conversion', conversion, wish }
    const record = this.#store.reference(name)
    return record === undefined ? undefined : { kind: 'reference', record }
  }

  /** As the wire shows it. */
  view(found: Found): Image {
    if (found.kind === 'reference') return this.readyOf(found.record) ?? lost(found.record)
    const { conversion, wish } = found
    return {
      name: wish.name,
      digest: conversion.digest,
      platform: conversion.platform,
      status: conversion.status,
      error: conversion.errorMessage,
      queuePosition: this.#conversions.position(conversion),
      createdAt: wish.createdAt,
      tags: wish.tags,
    }
  }

  /** The image of a reference, if its root file system is there. */
  readyOf(reference: Pick<ReferenceRecord, 'name' | 'digest' | 'createdAt' | 'tags'>): ReadyImage | undefined {
    const image = this.#store.image(reference.digest)
    if (image === undefined) return undefined
    return {
      name: reference.name,
      digest: image.digest,
      platform: image.platform,
      status: 'ready',
      sizeBytes: image.sizeBytes,
      createdAt: reference.createdAt,
      config: image.config,
      tags: reference.tags,
      rootfsPath: path.join(this.#layout.image(digestHex(image.digest)), imageFiles.rootfs),
    }
  }

  /** What a VM can be made from; `image_not_ready` otherwise. A pull that failed, or that only adds blobs, leaves what was there before in use. */
  ready(found: Found): ReadyImage {
    const usable = found.kind === 'reference' ? found.record : this.#behind(found)
    const image = usable === undefined ? undefined : this.readyOf(usable)
    if (image !== undefined) return image
    const { status, error } = this.view(found)
    throw new HypemanError(
      'image_not_ready',
      status === 'failed'
        ? `the image ${nameOf(found)} failed: ${error}; pull it again`
        : `the image ${nameOf(found)} is ${status}; try again when GET /images says ready`,
    )
  }

  #behind({
    conversion: { digest, status },
    wish,
  }: Extract<Found, { kind: 'conversion' }>): Parameters<ImageFinder['readyOf']>[0] | undefined {
    if (this.#store.image(digest) !== undefined) return { ...wish, digest }
    return status === 'failed' ? this.#store.reference(wish.name) : undefined
  }

  byDigest(digest: string): ReadyImage | undefined {
    const reference = this.#store.references().find((record) => record.digest === digest)
    const image = this.#store.image(digest)
    // A root file system that instances still use may have lost its last name: it is called by its digest then.
    return image === undefined ? undefined : this.readyOf(reference ?? { name: digest, digest, createdAt: image.createdAt, tags: {} })
  }
}

export function nameOf(found: Found): string {
  return found.kind === 'reference' ? found.record.name : found.wish.name
}

export function digestOf(found: Found): string {
  return found.kind === 'reference' ? found.record.digest : found.conversion.digest
}

function createdAt(found: Found): string {
  return found.kind === 'reference' ? found.record.createdAt : found.wish.createdAt
}

/** A reference whose image can't be read: shown as broken, so that it can be pulled again or removed. */
function lost(record: ReferenceRecord): Image {
  const { name, digest, createdAt: at, tags } = record
  return {
    name,
    digest,
    platform: '',
    status: 'failed',
    error: 'its root file system is missing or damaged; pull it again',
    createdAt: at,
    tags,
  }
}
