// Which manifests and tags each repository has: one record for each on disk, all in memory. The manifests themselves are blobs.

import { createHash } from 'node:crypto'
import path from 'node:path'
import type { Logger } from 'pino'
import { z } from 'zod'
import type { Unreadable } from '../api/schemas/unreadable.ts'
import { readCollection } from '../files/collection.ts'
import type { DataLayout } from '../files/layout.ts'
import { defineRecord } from '../files/record-format.ts'
import { makeOwnDirectory, moveToTrash, removeUnfinishedRecords, writeRecord } from '../files/stage.ts'
import { OciError } from './types.ts'

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

export const repositoryFormat = defineRecord({ kind: 'pushed repository', version: 1, schema: repositoryRecord })

export type Repository = z.infer<typeof repositoryRecord>

export class RepositoryStore {
  readonly #layout: DataLayout
  readonly #log: Logger
  readonly #directory: string
  readonly #repositories = new Map<string, Repository>()
  /** By the name of the file. */
  readonly #unreadable = new Map<string, Unreadable>()

  constructor(layout: DataLayout, log: Logger) {
    this.#layout = layout
    this.#log = log
    this.#directory = path.join(layout.registry, 'repositories')
  }

  async load(): Promise<void> {
    await makeOwnDirectory(path.dirname(this.#directory))
    await makeOwnDirectory(this.#directory)
    await removeUnfinishedRecords(this.#directory)
    const { found, unreadable } = await readCollection(
      { directory: this.#directory, kind: 'pushed repository', things: 'files', log: this.#log },
      async (name, file) => {
        const record = await repositoryFormat.read(file)
        if (fileOf(record.name) !== name)
          throw new Error(`${file} holds the record of the repository ${record.name}; remove it, and push again`)
        return record
      },
    )
    for (const record of found) this.#repositories.set(record.name, record)
    for (const [name, one] of unreadable) this.#unreadable.set(name, one)
  }

  /** Records that can't be read, until their repository is pushed to again. Each may name anything: while there are some, nothing may be collected. */
  unreadable(): readonly Unreadable[] {
    return [...this.#unreadable.values()]
  }

  find(name: string): Repository | undefined {
    return this.#repositories.get(name)
  }

  all(): readonly Repository[] {
    return [...this.#repositories.values()]
  }

  /** Durable when it returns; one without manifests is removed. */
  async put(repository: Repository): Promise<void> {
    const name = fileOf(repository.name)
    const unreadable = this.#unreadable.get(name)
    if (unreadable?.newer === true) throw new OciError('DENIED', `${repository.name} can't be changed: ${unreadable.reason}`)
    const file = path.join(this.#directory, name)
    if (Object.keys(repository.manifests).length === 0) {
      await moveToTrash(this.#layout, file)
      this.#repositories.delete(repository.name)
    } else {
      await writeRecord(file, repository, this.#repositories.get(repository.name) ?? null)
      this.#unreadable.delete(name)
      this.#repositories.set(repository.name, repository)
    }
  }
}

function fileOf(name: string): string {
  return `${createHash('sha256').update(name).digest('hex').slice(0, 40)}.json`
}
