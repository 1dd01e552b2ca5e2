// Images on disk and their index in memory: root file systems by digest, references by name. Rules of pulls and removal are not here.
// Changes are the caller's to put in order (Serial).

import { createHash } from 'node:crypto'
import { mkdir, readdir, readFile } from 'node:fs/promises'
import path from 'node:path'
import type { Logger } from 'pino'
import { imageFiles, type DataLayout } from '../files/layout.ts'
import { moveToTrash, writeRecord } from '../files/stage.ts'
import { imageRecord, parseRecord, referenceRecord, type ImageRecord, type ReferenceRecord } from './records.ts'
import { digestHex } from './reference.ts'

export class ImageStore {
  readonly #layout: DataLayout
  readonly #log: Logger
  readonly #images = new Map<string, ImageRecord>()
  readonly #references = new Map<string, ReferenceRecord>()
  /** Aliases to the names of their references. */
  readonly #aliases = new Map<string, string>()

  constructor(layout: DataLayout, log: Logger) {
    this.#layout = layout
    this.#log = log
  }

  /** Reads every record; one that can't be read is reported and left alone. */
  async load(): Promise<void> {
    await mkdir(this.#layout.imageReferences, { recursive: true, mode: 0o700 })
    await mkdir(this.#layout.imageRootfs, { recursive: true, mode: 0o700 })
    for (const hex of await readdir(this.#layout.imageRootfs))
      await this.#attempt(path.join(this.#layout.image(hex), imageFiles.record), (text) => {
        const record = parseRecord(imageRecord, text)
        if (digestHex(record.digest) !== hex) throw new Error(`the record names the image ${record.digest}`)
        this.#images.set(record.digest, record)
      })
    for (const file of await readdir(this.#layout.imageReferences)) {
      // What a crash left between writing a record and renaming it into place.
      if (file.endsWith('.tmp')) await moveToTrash(this.#layout, path.join(this.#layout.imageReferences, file))
      else
        await this.#attempt(path.join(this.#layout.imageReferences, file), (text) => {
          const record = parseRecord(referenceRecord, text)
          if (fileOf(record.name) !== file) throw new Error(`the record names the reference ${record.name}`)
          this.#index(record)
        })
    }
  }

  async #attempt(file: string, enter: (text: string) => void): Promise<void> {
    try {
      enter(await readFile(file, 'utf8'))
    } catch (error) {
      this.#log.error(
        { file, reason: error instanceof Error ? error.message : String(error) },
        "an image's record can't be read and is left alone",
      )
    }
  }

  image(digest: string): ImageRecord | undefined {
    return this.#images.get(digest)
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
  }

  async putReference(record: ReferenceRecord): Promise<void> {
    await writeRecord(path.join(this.#layout.imageReferences, fileOf(record.name)), record)
    this.#forgetReference(record.name)
    this.#index(record)
  }

  async dropReference(name: string): Promise<void> {
    await moveToTrash(this.#layout, path.join(this.#layout.imageReferences, fileOf(name)))
    this.#forgetReference(name)
  }

  /** Removes a root file system; it is gone from the index before its files are. */
  async dropImage(digest: string): Promise<void> {
    this.#images.delete(digest)
    await moveToTrash(this.#layout, this.#layout.image(digestHex(digest)))
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
