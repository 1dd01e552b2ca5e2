// Volumes for the routes and for instances: names, ids, and what keeps a volume from being deleted.

import { existsSync } from 'node:fs'
import path from 'node:path'
import type { Readable } from 'node:stream'
import type { Logger } from 'pino'
import { HypemanError } from '../api/errors.ts'
import { matchesTags } from '../api/schemas/common.ts'
import type { CreateVolumeBody, VolumeView } from '../api/schemas/volume.ts'
import type { Unreadable } from '../api/schemas/unreadable.ts'
import { volumeFiles, type DataLayout } from '../files/layout.ts'
import { moveToTrash } from '../files/stage.ts'
import { nothingHeld, type Capacity, type Holding } from '../platform/capacity.ts'
import { loggedFlow, step, type FaultPlan } from '../platform/flow.ts'
import { newId } from '../platform/ids.ts'
import { createVolume } from './create.ts'
import { GIB, viewOf, type VolumeRecord } from './record.ts'
import { VolumeStore } from './store.ts'
import type { VolumeAttachment, VolumeService, VolumeSource } from './types.ts'

export interface VolumeServiceOptions {
  readonly layout: DataLayout
  readonly log: Logger
  /** Instances that attach a volume. */
  readonly attachmentsOf: (volumeId: string) => readonly VolumeAttachment[]
  /** Ids of the snapshots that name a volume. */
  readonly snapshotsUsing: (volumeId: string) => readonly string[]
  readonly capacity: Pick<Capacity, 'reserve'>
  readonly faults?: FaultPlan | undefined
}

export class Volumes implements VolumeService, VolumeSource {
  readonly #options: VolumeServiceOptions
  readonly #store: VolumeStore
  /** How often a volume is held. */
  readonly #held = new Map<string, number>()
  readonly #leaving = new Set<string>()

  constructor(options: VolumeServiceOptions) {
    this.#options = options
    this.#store = new VolumeStore(options.layout, options.log)
  }

  async open(): Promise<void> {
    await this.#store.load()
  }

  create(body: CreateVolumeBody): Promise<VolumeView> {
    return this.#make(body)
  }

  async createFromArchive(body: CreateVolumeBody, archive: Readable): Promise<VolumeView> {
    try {
      return await this.#make(body, archive)
    } finally {
      archive.destroy()
    }
  }

  async list(filter: Parameters<VolumeService['list']>[0]): Promise<VolumeView[]> {
    return this.#store
      .list()
      .filter(({ tags }) => matchesTags(tags, filter.tags))
      .map((record) => this.#view(record))
  }

  async get(ref: string): Promise<VolumeView> {
    return this.#view(this.#store.find(ref))
  }

  /** The disk that each volume may fill. */
  held(): readonly Holding[] {
    return this.#store.list().map(holdingOf)
  }

  unreadable(): readonly Unreadable[] {
    return this.#store.unreadable()
  }

  async remove(ref: string): Promise<void> {
    const unreadable = this.unreadable().find(({ id }) => id === ref)
    if (unreadable !== undefined) return this.#removeUnreadable(unreadable)
    const record = this.#store.find(ref)
    this.#refuseInUse(record)
    if (this.#leaving.has(record.id)) throw new HypemanError('conflict', `the volume ${record.name} is being deleted`)
    // From here on nobody can hold it, so what was checked stays true until it is gone.
    this.#leaving.add(record.id)
    try {
      const { layout } = this.#options
      using flow = loggedFlow(this.#options, 'volume.delete', { volumeId: record.id })
      await step(flow, 'remove', async () => {
        await moveToTrash(layout, layout.volume(record.id))
        this.#store.forget(record)
      })
    } finally {
      this.#leaving.delete(record.id)
    }
    this.#options.log.info({ volumeId: record.id, name: record.name }, 'volume deleted')
  }

  async #removeUnreadable({ id, path: at }: Unreadable): Promise<void> {
    this.#refuseInUse({ id, name: id })
    await moveToTrash(this.#options.layout, at)
    this.#store.forgetUnreadable(id)
    this.#options.log.info({ path: at }, "a volume that can't be read was deleted")
  }

  resolve(ref: string): string {
    return this.#store.find(ref).id
  }

  imagePath(id: string): string {
    if (!this.isThere(id)) throw new HypemanError('not_found', `the volume ${id} is gone; hypeman volume list shows all`)
    return this.#diskOf(id)
  }

  isThere(id: string): boolean {
    return this.#store.byId(id) !== undefined && !this.#leaving.has(id) && existsSync(this.#diskOf(id))
  }

  snapshotsUsing(id: string): readonly string[] {
    return this.#options.snapshotsUsing(id)
  }

  hold(id: string): Disposable {
    this.imagePath(id)
    this.#held.set(id, (this.#held.get(id) ?? 0) + 1)
    let held = true
    return {
      [Symbol.dispose]: () => {
        if (!held) return
        held = false
        const left = (this.#held.get(id) ?? 1) - 1
        if (left > 0) this.#held.set(id, left)
        else this.#held.delete(id)
      },
    }
  }

  async #make(body: CreateVolumeBody, archive?: Readable): Promise<VolumeView> {
    const record: VolumeRecord = {
      version: 1,
      id: body.id ?? newId(),
      name: body.name,
      sizeGib: body.size_gb,
      createdAt: new Date().toISOString(),
      tags: body.tags ?? {},
    }
    using _reserved = this.#store.reserve(record.id, record.name)
    using _share = this.#options.capacity.reserve(holdingOf(record))
    const began = performance.now()
    using flow = loggedFlow(this.#options, 'volume.create', { volumeId: record.id })
    await createVolume({ layout: this.#options.layout, log: this.#options.log, flow }, record, archive)
    this.#store.add(record)
    this.#options.log.info({ volumeId: record.id, name: record.name, ms: Math.round(performance.now() - began) }, 'volume created')
    return this.#view(record)
  }

  #refuseInUse({ id, name }: Pick<VolumeRecord, 'id' | 'name'>): void {
    const [attachment] = this.#options.attachmentsOf(id)
    if (attachment !== undefined)
      throw new HypemanError(
        'conflict',
        `the volume ${name} is in use by an instance (${attachment.instanceId}, at ${attachment.mountPath}); detach it (hypeman volume detach) or delete the instance first`,
      )
    if (this.#held.has(id))
      throw new HypemanError(
        'conflict',
        `the volume ${name} is in use by an instance that is being made or changed; try again when that is done`,
      )
    const [snapshot] = this.#options.snapshotsUsing(id)
    if (snapshot !== undefined)
      throw new HypemanError('conflict', `the volume ${name} is in use by a snapshot (${snapshot}); delete the snapshot first`)
  }

  #diskOf(id: string): string {
    return path.join(this.#options.layout.volume(id), volumeFiles.disk)
  }

  #view(record: VolumeRecord): VolumeView {
    return viewOf(record, this.#options.attachmentsOf(record.id))
  }
}

function holdingOf({ id, name, sizeGib }: VolumeRecord): Holding {
  return { ...nothingHeld, kind: 'volume', id, name, disk: sizeGib * GIB }
}
