// Disks as they are after a loss of power: everything up to a sync, and of what was written after it nothing, or what chance lets survive.

import { mkdir, open, rm, writeFile, truncate, type FileHandle } from 'node:fs/promises'
import path from 'node:path'
import { copyPayload } from '../../../src/files/copy.ts'
import { mountImage, type Recording } from './recorded-disk.ts'
import type { LoggedWrite } from './write-log.ts'

/** What a disk writes whole or not at all, in bytes: the file systems' own blocks. */
const ATOM = 4096

/** Tells whether a piece of a write that no sync covers survives. */
export type Survival = () => boolean

const nothingSurvives: Survival = () => false

export interface MountedDisk extends AsyncDisposable {
  readonly path: string
}

/** Goes through a recording from its beginning to its end. */
export class Replay implements AsyncDisposable {
  readonly #recording: Recording
  readonly #directory: string
  readonly #log: FileHandle
  /** The disk with the epochs up to `#done`. */
  readonly #durable: FileHandle
  #done = 0
  #made = 0

  private constructor(recording: Recording, directory: string, log: FileHandle, durable: FileHandle) {
    this.#recording = recording
    this.#directory = directory
    this.#log = log
    this.#durable = durable
  }

  /** `directory` is an existing one; everything is put there. */
  static async open(recording: Recording, directory: string): Promise<Replay> {
    const durable = path.join(directory, 'durable')
    await writeFile(durable, '')
    await truncate(durable, recording.sizeBytes)
    return new Replay(recording, directory, await open(recording.log, 'r'), await open(durable, 'r+'))
  }

  /** Mounts a copy of the disk as it was when the sync of that epoch (counted from 0) had ended; never an earlier one than before. */
  async mountAfter(epoch: number, survives: Survival = nothingSurvives): Promise<MountedDisk> {
    for (; this.#done <= epoch; this.#done += 1)
      for (const write of this.#recording.epochs[this.#done]?.writes ?? []) await this.#apply(write, this.#durable, () => true)
    const [image, place] = [path.join(this.#directory, `image-${this.#made}`), path.join(this.#directory, `m${this.#made}`)]
    this.#made += 1
    await using undo = new AsyncDisposableStack()
    undo.defer(() => rm(image, { force: true }))
    await copyPayload(path.join(this.#directory, 'durable'), image, { durable: false })
    {
      await using file = await open(image, 'r+')
      for (const write of this.#recording.epochs[epoch + 1]?.writes ?? []) await this.#apply(write, file, survives)
    }
    await mkdir(place)
    undo.defer(() => rm(place, { recursive: true }))
    undo.use(await mountImage(this.#recording.filesystem, image, place))
    const owned = undo.move()
    return { path: place, [Symbol.asyncDispose]: () => owned.disposeAsync() }
  }

  async #apply(write: LoggedWrite, to: FileHandle, survives: Survival): Promise<void> {
    for (let done = 0; done < write.length;) {
      const length = Math.min(write.length - done, ATOM - ((write.at + done) % ATOM))
      if (survives()) {
        const { buffer } = await this.#log.read(Buffer.alloc(length), 0, length, write.from + done)
        await to.write(buffer, 0, length, write.at + done)
      }
      done += length
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#log.close()
    await this.#durable.close()
    await rm(path.join(this.#directory, 'durable'))
  }
}
