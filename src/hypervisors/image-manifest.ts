// The manifest of a memory image, whatever the driver says in it: it is written last and removed first, so that an image exists if and only if its manifest does.

import { statSync } from 'node:fs'
import path from 'node:path'
import { HypemanError } from '../api/errors.ts'
import { RecordError, type RecordFormat } from '../files/record-format.ts'
import { removeFile, stageRecord, syncDirectory, writeRecord } from '../files/stage.ts'
import { isMissing } from '../files/tree.ts'
import { diskError } from '../platform/disk-error.ts'

/** In an instance's directory and in a payload. */
export const manifestFile = 'memory.json'

export interface ImageManifest<T extends object> {
  /** True if an image was completed here, also if its manifest is damaged by now: then it is still what the instance is, and using it says so. */
  readonly isThere: (directory: string) => boolean
  /** Undefined if there is no image. A damaged manifest is an error. */
  readonly read: (directory: string) => Promise<T | undefined>
  /** The same where a damaged manifest is as good as none: what can't be read just now still is an error, since nobody may take that for no image. */
  readonly readWhole: (directory: string) => Promise<T | undefined>
  /** `invalid_state` if there is no image. */
  readonly demand: (directory: string) => Promise<T>
  /** In a staged directory, whose commit syncs it. */
  readonly stage: (directory: string, value: T) => Promise<void>
  /** In an instance's own directory, durably: everything that it names is on disk by then. */
  readonly commit: (directory: string, value: T) => Promise<void>
  /** When this returns no loss of power brings the image back. */
  readonly remove: (directory: string) => Promise<void>
}

export function imageManifest<T extends object>(format: RecordFormat<T>): ImageManifest<T> {
  const fileIn = (directory: string): string => path.join(directory, manifestFile)
  const read = async (directory: string): Promise<T | undefined> => {
    try {
      return await format.read(fileIn(directory))
    } catch (error) {
      if (!(error instanceof RecordError)) throw error
      if (isMissing(error.cause)) return undefined
      if (isSystemError(error.cause)) throw diskError(fileIn(directory), error.cause)
      throw new HypemanError(
        error.newer ? 'incompatible_version' : 'corrupt_snapshot',
        `the memory image in ${directory} can't be used, since ${error.message}; target_state Stopped starts from the disks`,
        { cause: error },
      )
    }
  }
  return {
    isThere: (directory) => statSync(fileIn(directory), { throwIfNoEntry: false }) !== undefined,
    read,
    async readWhole(directory) {
      try {
        return await read(directory)
      } catch (error) {
        if (error instanceof HypemanError && error.cause instanceof RecordError) return undefined
        throw error
      }
    },
    async demand(directory) {
      const found = await read(directory)
      if (found === undefined) throw new HypemanError('invalid_state', `there is no memory image in ${directory}`)
      return found
    },
    stage: (directory, value) => stageRecord(fileIn(directory), value),
    commit: (directory, value) => writeRecord(fileIn(directory), value, null),
    async remove(directory) {
      if (await removeFile(fileIn(directory))) await syncDirectory(directory)
    },
  }
}

/** Of a part that is missing, or is not what the manifest says. */
export function damagedImage(directory: string, what: string, cause?: unknown): HypemanError {
  return new HypemanError(
    'corrupt_snapshot',
    `the memory image in ${directory} is damaged (${what}); use another snapshot, or target_state Stopped to start from the disks`,
    { cause },
  )
}

/** A file's size in bytes; undefined if it does not exist. */
export function sizeOf(file: string): number | undefined {
  return statSync(file, { throwIfNoEntry: false })?.size
}

function isSystemError(error: unknown): boolean {
  return error instanceof Error && 'syscall' in error
}
