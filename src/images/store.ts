// Images on disk and their index in memory: root file systems by digest, references by name. Rules of pulls and removal are not here.
// Changes are the caller's to put in order (Serial).

import { createHash } from 'node:crypto'
import { lstat } from 'node:fs/promises'
import path from 'node:path'
import type { Logger } from 'pino'
import { HypemanError } from '../api/errors.ts'
import type { Unreadable } from '../api/schemas/unreadable.ts'
import { readCollection } from '../files/collection.ts'
import { imageFiles, type DataLayout } from '../files/layout.ts'
import { makeOwnDirectory, moveToTrash, removeUnfinishedRecords, writeRecord } from '../files/stage.ts'
import { refuseForeignFiles } from '../files/tree.ts'
import { findKept } from './kept-blobs.ts'
import { imageFormat, referenceFormat, type ImageRecord, type ReferenceRecord } from './records.ts'
import { digestHex } from './reference.ts'
import type { KeptImage } from './types.ts'

export class ImageStore {
  readonly #layout: DataLayout
  readonly #log: Logger
  readonly #images = new Map<string, ImageRecord>()
  readonly #references = new Map<string, ReferenceRecord>()
  /** Aliases to the names of their references. */
  readonly #aliases = new Map<string, string>()
  /** By the path of the directory or file. */
  readonly #unreadable = new Map<string, Unreadable>()

  constructor(layout: DataLayout, log: Logger) {
    this.#layout = layout
    this.#log = log
  }

  /** Reads every record; one that can't be read is reported and left alone. */
  async load(): Promise<void> {
    await makeOwnDirectory(this.#layout.imageReferences)
    await makeOwnDirectory(this.#layout.imageRootfs)
    // What a crash left between writing a record and renaming it into place.
    await removeUnfinishedRecords(this.#layout.imageReferences)
    const log = this.#log
    const images = await readCollection({ directory: this.#layout.imageRootfs, kind: 'image', things: 'directories', log }, readImage)
    for (const record of images.found) this.#images.set(record.digest, record)
    const references = await readCollection(
      { directory: this.#layout.imageReferences, kind: 'image reference', things: 'files', log },
      readReference,
    )
    for (const record of references.found) this.#index(record)
    for (const one of [...images.unreadable.values(), ...references.unreadable.values()]) this.#unreadable.set(one.path, one)
  }

  /** What lies among the images and can't be read: reported, left alone until the image is pulled or pushed again. */
  unreadable(): readonly Unreadable[] {
    return [...this.#unreadable.values()]
  }

  image(digest: string): ImageRecord | undefined {
    return this.#images.get(digest)
  }

  /** The blobs of an image that is here; undefined if they were not kept when it was made. */
  async kept(digest: string): Promise<KeptImage | undefined> {
    return this.#images.has(digest) ? await findKept(this.#blobsOf(digest), digest) : undefined
  }

  /** Directories that may hold blobs of the images that are here. */
  keptBlobs(): readonly string[] {
    return [...this.#images.keys()].map((digest) => this.#blobsOf(digest))
  }

  #blobsOf(digest: string): string {
    return path.join(this.#layout.image(digestHex(digest)), imageFiles.blobs)
  }

  images(): readonly ImageRecord[] {
    return [...this.#images.values()]
  }

  /** By name or alias. */
  reference(name: string): ReferenceRecord | undefined {
    return this.#references.get(name) ?? this.#references.get(this.#aliases.get(name) ?? '')
  }

  references(): readonly ReferenceRecord[] {
    return [...this.#references.values()]
  }

  /** Enters an image whose directory has been committed. */
  addImage(record: ImageRecord): void {
    this.#images.set(record.digest, record)
    this.#unreadable.delete(this.#layout.image(digestHex(record.digest)))
  }

  async putReference(record: ReferenceRecord): Promise<void> {
    const file = path.join(this.#layout.imageReferences, fileOf(record.name))
    const unreadable = this.#unreadable.get(file)
    if (unreadable?.newer === true)
      throw new HypemanError('incompatible_version', `the image ${record.name} can't be changed: ${unreadable.reason}`)
    await writeRecord(file, record, this.#references.get(record.name) ?? null)
    this.#unreadable.delete(file)
    this.#forgetReference(record.name)
    this.#index(record)
  }

  async dropReference(name: string): Promise<void> {
    await moveToTrash(this.#layout, path.join(this.#layout.imageReferences, fileOf(name)))
    this.#forgetReference(name)
  }

  /** Removes a root file system. From the call on nobody finds it; if it can't be removed, it is back. */
  async dropImage(digest: string): Promise<void> {
    const record = this.#images.get(digest)
    this.#images.delete(digest)
    try {
      await moveToTrash(this.#layout, this.#layout.image(digestHex(digest)))
    } catch (error) {
      if (record !== undefined) this.#images.set(digest, record)
      throw error
    }
  }

  #index(record: ReferenceRecord): void {
    this.#references.set(record.name, record)
    for (const alias of record.aliases) this.#aliases.set(alias, record.name)
  }

  #forgetReference(name: string): void {
    for (const alias of this.#references.get(name)?.aliases ?? []) if (this.#aliases.get(alias) === name) this.#aliases.delete(alias)
    this.#references.delete(name)
  }
}

async function readImage(hex: string, directory: string): Promise<ImageRecord> {
  refuseForeignFiles(directory)
  const record = await imageFormat.read(path.join(directory, imageFiles.record))
  if (digestHex(record.digest) !== hex)
    throw new Error(`${directory} holds the record of the image ${record.digest}; remove it, and pull the image again`)
  const rootfs = path.join(directory, imageFiles.rootfs)
  const { size } = await lstat(rootfs)
  if (size !== record.sizeBytes) throw new Error(`${rootfs} has ${size} bytes, not ${record.sizeBytes}; pull the image again`)
  return record
}

async function readReference(name: string, file: string): Promise<ReferenceRecord> {
  const record = await referenceFormat.read(file)
  if (fileOf(record.name) !== name)
    throw new Error(`${file} holds the record of the reference ${record.name}; remove it, and pull the image again`)
  return record
}

/** Names have slashes and up to 400 characters: their hash is the file's name. */
function fileOf(name: string): string {
  return `${createHash('sha256').update(name).digest('hex').slice(0, 40)}.json`
}

/** Runs changes one after the other, in the order of the calls. */
export class Serial {
  #last: Promise<unknown> = Promise.resolve()

  run<T>(act: () => Promise<T>): Promise<T> {
    const result = this.#last.then(act, act)
    // Its failure is for who called; the next one runs all the same.
    this.#last = result.catch(() => undefined)
    return result
  }
}
