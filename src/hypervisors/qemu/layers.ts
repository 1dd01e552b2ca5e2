// The writable system disk as a chain of layers in one directory: `disk-0.raw`, an empty file system, then `disk-1.qcow2`, `disk-2.qcow2`, …,
// each over the one before by its relative name. Only the last may be written, and only while it has no other hard link.

import { link, readdir, rename, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { execa } from 'execa'
import { HypemanError } from '../../api/errors.ts'
import { createStaged, diskErrors, syncDirectory } from '../../files/stage.ts'
import type { DataLayout } from '../../files/layout.ts'
import { isMissing } from '../../files/tree.ts'
import { createOverlay, overlaySize } from './qcow2.ts'

const BASE = 'disk-0.raw'
/** Beyond this many layers a cold start joins them first: each costs a table in memory and a look-up. */
const DEEPEST = 12

export function layerName(number: number): string {
  return number === 0 ? BASE : `disk-${number}.qcow2`
}

function layerNumber(name: string): number | undefined {
  if (name === BASE) return 0
  const match = /^disk-([1-9]\d*)\.qcow2$/.exec(name)
  return match === null ? undefined : Number(match[1])
}

/** Number of the last layer; an error if the directory has none. */
export async function lastLayer(directory: string): Promise<number> {
  const numbers = (await readdir(directory)).map(layerNumber).filter((number) => number !== undefined)
  if (numbers.length === 0) throw new HypemanError('conflict', `the disk in ${directory} is missing; delete the instance`)
  return Math.max(...numbers)
}

/** Links an empty ext4 of that size into the directory, made once per size in the cache. */
export async function createBase(layout: DataLayout, directory: string, sizeBytes: number): Promise<void> {
  const cached = path.join(layout.cache, `ext4-${sizeBytes}.raw`)
  try {
    await link(cached, path.join(directory, BASE))
  } catch (error) {
    if (!isMissing(error)) throw error
    await makeFilesystem(layout, cached, sizeBytes)
    await link(cached, path.join(directory, BASE))
  }
}

async function makeFilesystem(layout: DataLayout, cached: string, sizeBytes: number): Promise<void> {
  await using staged = await createStaged(layout, `ext4-${sizeBytes}-${process.hrtime.bigint()}`)
  const file = path.join(staged.path, 'disk.raw')
  await diskErrors(file, async () => {
    // The file is all holes, so nothing is left for the guest to initialise behind its user's back.
    await execa(
      'mke2fs',
      [
        '-q',
        '-t',
        'ext4',
        '-F',
        '-m',
        '0',
        '-i',
        '32768',
        '-J',
        'size=16',
        '-E',
        'assume_storage_prezeroed=1,nodiscard,lazy_itable_init=0,lazy_journal_init=0',
        file,
        `${Math.floor(sizeBytes / 1024)}k`,
      ],
      {
        env: { E2FSPROGS_FAKE_TIME: '1', MKE2FS_SYNC: '0' },
      },
    )
    await rename(file, cached)
  })
}

/** Makes sure that the last layer may be written by a new process: a shared or base layer gets an empty one over it. Returns its name. */
export async function writableLayer(directory: string): Promise<string> {
  const last = await lastLayer(directory)
  const { nlink } = await stat(path.join(directory, layerName(last)))
  return last > 0 && nlink === 1 ? layerName(last) : addLayer(directory, last)
}

/** Puts an empty layer over layer `below`; everything above `below` is removed first. Returns its name. */
export async function addLayer(directory: string, below: number): Promise<string> {
  await removeLayersAbove(directory, below)
  const name = layerName(below + 1)
  const backing = layerName(below)
  const sizeBytes = below === 0 ? (await stat(path.join(directory, backing))).size : await overlaySize(path.join(directory, backing))
  await createOverlay({ file: path.join(directory, name), backing, backingFormat: below === 0 ? 'raw' : 'qcow2', sizeBytes })
  return name
}

export async function removeLayersAbove(directory: string, last: number): Promise<void> {
  for (const name of await readdir(directory)) if ((layerNumber(name) ?? -1) > last) await rm(path.join(directory, name))
}

/** Links the layers up to `last` into another directory. They are immutable from then on. */
export async function linkLayers(directory: string, target: string, last: number): Promise<void> {
  for (const name of await readdir(directory)) {
    const number = layerNumber(name)
    if (number !== undefined && number <= last) await link(path.join(directory, name), path.join(target, name))
  }
}

/** Joins a long chain into one layer over the base; what others link to stays as it is. Only while no process uses the disk and no memory image names its layers. */
export async function joinLayers(directory: string): Promise<void> {
  const last = await lastLayer(directory)
  if (last <= DEEPEST) return
  const joined = path.join(directory, 'disk-joined.tmp')
  await rm(joined, { force: true })
  await diskErrors(joined, () =>
    execa('qemu-img', ['convert', '-q', '-O', 'qcow2', '-B', BASE, '-F', 'raw', layerName(last), joined], { cwd: directory }),
  )
  // The new chain is one layer higher than the old, so that a crash in between leaves the old chain whole: first it is in place, then the old goes.
  await rename(joined, path.join(directory, layerName(last + 1)))
  for (let number = 1; number <= last; number += 1) await rm(path.join(directory, layerName(number)), { force: true })
  await rename(path.join(directory, layerName(last + 1)), path.join(directory, layerName(1)))
  await syncDirectory(directory)
}
