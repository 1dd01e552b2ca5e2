// Which manifests and tags each repository has: one record for each on disk, all in memory. The manifests themselves are blobs.

import { createHash } from 'node:crypto'
import { mkdir, readdir, readFile } from 'node:fs/promises'
import path from 'node:path'
import type { Logger } from 'pino'
import { z } from 'zod'
import type { DataLayout } from '../files/layout.ts'
import { parseRecordText } from '../files/record-text.ts'
import { moveToTrash, writeRecord } from '../files/stage.ts'

const repositoryRecord = z
  .object({
    version: z.literal(1),
    name: z.string().min(1),
    /** Media types by digest. */
    manifests: z.record(z.string(), z.string()).readonly(),
    /** Digests by tag. */
    tags: z.record(z.string(), z.string()).readonly(),
  })
  .readonly()

export type Repository = z.infer<typeof repositoryRecord>

export class RepositoryStore {
  readonly #layout: DataLayout
  readonly #log: Logger
  readonly #directory: string
  readonly #repositories = new Map<string, Repository>()

  constructor(layout: DataLayout, log: Logger) {
    this.#layout = layout
    this.#log = log
    this.#directory = path.join(layout.registry, 'repositories')
  }

  /** Returns false if a record can't be read: then nothing may be collected, since it may name anything. */
  async load(): Promise<boolean> {
    await mkdir(this.#directory, { recursive: true, mode: 0o700 })
    let whole = true
    for (const name of await readdir(this.#directory)) {
      const file = path.join(this.#directory, name)
      try {
        if (name.endsWith('.tmp')) await moveToTrash(this.#layout, file)
        else {
          const record = repositoryRecord.parse(parseRecordText(await readFile(file, 'utf8')))
          if (fileOf(record.name) !== name) throw new Error(`the record names the repository ${record.name}`)
          this.#repositories.set(record.name, record)
        }
      } catch (error) {
        whole = false
        this.#log.error(
          { file, reason: error instanceof Error ? error.message : String(error) },
          "a repository's record can't be read and is left alone",
        )
      }
    }
    return whole
  }

  find(name: string): Repository | undefined {
    return this.#repositories.get(name)
  }

  all(): readonly Repository[] {
    return [...this.#repositories.values()]
  }

  /** Durable when it returns; one without manifests is removed. */
  async put(repository: Repository): Promise<void> {
    const file = path.join(this.#directory, fileOf(repository.name))
    if (Object.keys(repository.manifests).length === 0) {
      await moveToTrash(this.#layout, file)
      this.#repositories.delete(repository.name)
    } else {
      await writeRecord(file, repository)
      this.#repositories.set(repository.name, repository)
    }
  }
}

function fileOf(name: string): string {
  return `${createHash('sha256').update(name).digest('hex').slice(0, 40)}.json`
}
