// The templates that are kept, by what they were made for, and the making of new ones, one at a time. A cache: what can't be read or used is dropped.

import { readdir, utimes } from 'node:fs/promises'
import path from 'node:path'
import { statSync } from 'node:fs'
import type { Logger } from 'pino'
import { templateFiles, type DataLayout } from '../files/layout.ts'
import { moveToTrash } from '../files/stage.ts'
import { refuseForeignFiles } from '../files/tree.ts'
import { messageOf } from '../platform/flow.ts'
import { keyOf, templateFormat, type TemplateRecord } from './template-record.ts'

/** More than these are not kept: the one that was used longest ago goes. */
const MOST_KEPT = 16
/** One that was not used for so long goes, in milliseconds. */
const UNUSED_LIMIT_MS = 7 * 24 * 3600 * 1000

interface Kept {
  readonly record: TemplateRecord
  /** Milliseconds since 1970; the directory's time of change on disk. */
  usedAt: number
}

export class Templates {
  readonly #layout: DataLayout
  readonly #log: Logger
  readonly #kept = new Map<string, Kept>()
  /** Being made, waiting for it, or failed: not begun again by this server. */
  readonly #begun = new Set<string>()
  #work: Promise<void> = Promise.resolve()

  constructor(layout: DataLayout, log: Logger) {
    this.#layout = layout
    this.#log = log
  }

  /** At start: reads what is there, and drops what is of no use any more. */
  async load(isUsable: (record: TemplateRecord) => Promise<boolean>): Promise<void> {
    for (const key of await readdir(this.#layout.templates)) {
      const directory = this.#layout.template(key)
      try {
        refuseForeignFiles(directory)
        const record = await templateFormat.read(path.join(directory, templateFiles.record))
        if (keyOf(record.kind) !== key) throw new Error('it is the template of something else')
        if (!(await isUsable(record))) throw new Error('nothing can be made of it any more')
        this.#kept.set(key, { record, usedAt: statSync(directory).mtimeMs })
      } catch (error) {
        await this.#remove(key, messageOf(error))
      }
    }
    await this.tidy()
  }

  find(key: string): TemplateRecord | undefined {
    return this.#kept.get(key)?.record
  }

  /** Notes that it was used just now. */
  async touch(key: string): Promise<void> {
    const kept = this.#kept.get(key)
    if (kept === undefined) return
    kept.usedAt = Date.now()
    const now = new Date(kept.usedAt)
    await utimes(this.#layout.template(key), now, now)
  }

  add(record: TemplateRecord): void {
    this.#kept.set(keyOf(record.kind), { record, usedAt: Date.now() })
  }

  /** A template that failed is not made again by this server. */
  async drop(key: string, reason: string): Promise<void> {
    this.#begun.add(key)
    if (this.#kept.delete(key)) await this.#remove(key, reason)
  }

  /** Drops those of which nothing can be made any more. */
  async dropStale(isStale: (record: TemplateRecord) => boolean): Promise<void> {
    for (const [key, { record }] of this.#kept) {
      if (!isStale(record)) continue
      this.#kept.delete(key)
      this.#begun.delete(key)
      await this.#remove(key, 'its image is gone')
    }
  }

  /** Drops what was not used for long, and what is too many. */
  async tidy(): Promise<void> {
    const byUse = [...this.#kept].toSorted(([, one], [, other]) => other.usedAt - one.usedAt)
    for (const [at, [key, { usedAt }]] of byUse.entries()) {
      if (at < MOST_KEPT && Date.now() - usedAt < UNUSED_LIMIT_MS) continue
      this.#kept.delete(key)
      this.#begun.delete(key)
      await this.#remove(key, 'it was not used for long')
    }
  }

  /** Makes a template after those that were asked for before, unless that was begun already. Failures are logged. */
  begin(key: string, make: () => Promise<void>): void {
    if (this.#begun.has(key) || this.#kept.has(key)) return
    this.#begun.add(key)
    this.#work = this.#work.then(make).catch((error: unknown) => {
      this.#log.warn({ template: key, error: messageOf(error) }, 'a template could not be made; machines of its kind are booted')
    })
  }

  /** Resolves when nothing is being made. */
  async idle(): Promise<void> {
    await this.#work
  }

  async #remove(key: string, reason: string): Promise<void> {
    this.#log.info({ template: key, reason }, 'a template is dropped')
    try {
      await moveToTrash(this.#layout, this.#layout.template(key))
    } catch (error) {
      this.#log.warn({ template: key, error: messageOf(error) }, 'a template could not be removed and takes room')
    }
  }
}
