// The writable system disk as a chain of layers in one directory: `disk-0.raw`, an empty file system, then `disk-1.qcow2`, `disk-2.qcow2`, …,
// each over the one before by its relative name; a layer that was joined from others stands alone. Only the last may be written, and only while
// it has no other hard link.

import { readdirSync, statSync } from 'node:fs'
import { link, rename, rm } from 'node:fs/promises'
import path from 'node:path'
import { HypemanError, isHypemanError } from '../../api/errors.ts'
import { sharesBlocks } from '../../files/clone.ts'
import { runDiskTool } from '../../files/disk-tool.ts'
import { linkFilesystem } from '../../files/empty-filesystem.ts'
import { syncDirectory, syncFile } from '../../files/stage.ts'
import { diskErrors } from '../../platform/disk-error.ts'
import type { DataLayout } from '../../files/layout.ts'
import { createOverlay, readBacking, readOverlay, TEMPORARY } from './qcow2.ts'

const BASE = 'disk-0.raw'
/** More layers than this are joined: each costs a start some two milliseconds, and the process a file and a table. */
const DEEPEST = 12

export function layerName(number: number): string {
  return number === 0 ? BASE : `disk-${number}.qcow2`
}

/** Number of a layer by its file's name; undefined for other files. */
export function layerNumber(name: string): number | undefined {
  if (name === BASE) return 0
  const match = /^disk-([1-9]\d*)\.qcow2$/.exec(name)
  return match === null ? undefined : Number(match[1])
}

/** Number of the last layer; an error if the directory has none. */
export function lastLayer(directory: string): number {
  const numbers = readdirSync(directory)
    .map(layerNumber)
    .filter((number) => number !== undefined)
  if (numbers.length === 0) throw new HypemanError('conflict', `the disk in ${directory} is missing; delete the instance`)
  return Math.max(...numbers)
}

/** Links an empty ext4 of that size into the directory, made once per size in the cache. */
export function createBase(layout: DataLayout, directory: string, sizeBytes: number): Promise<void> {
  return linkFilesystem(layout, sizeBytes, path.join(directory, BASE))
}

/** Makes sure that the last layer may be written by a new process: a shared or base layer gets an empty one over it. Returns its name. */
export async function writableLayer(directory: string): Promise<string> {
  const last = lastLayer(directory)
  const { nlink } = statSync(path.join(directory, layerName(last)))
  return last > 0 && nlink === 1 ? layerName(last) : addLayer(directory, last)
}

/** Makes sure that exactly one layer, an empty one, lies over layer `below`. Returns its name. */
export async function emptyLayerOver(directory: string, below: number): Promise<string> {
  const above = readdirSync(directory).filter((name) => (layerNumber(name) ?? -1) > below)
  const [only, ...others] = above
  if (only === layerName(below + 1) && others.length === 0 && isUntouched(path.join(directory, only))) return only
  return addLayer(directory, below)
}

function isUntouched(file: string): boolean {
  return statSync(file).nlink === 1 && readOverlay(file).isEmpty
}

/** Puts an empty layer over layer `below`; everything above `below` is removed first. Returns its name. In a staged directory it need not be durable. */
export async function addLayer(directory: string, below: number, durable = true): Promise<string> {
  await removeLayersAbove(directory, below)
  const name = layerName(below + 1)
  const backing = layerName(below)
  const sizeBytes = sizeOfLayer(directory, below)
  const backingFormat = below === 0 ? 'raw' : 'qcow2'
  await createOverlay({ file: path.join(directory, name), backing, backingFormat, sizeBytes }, durable)
  return name
}

/** Makes the disk of a machine that does not run that long, by one more layer, unless it is already. Disposing removes the layer. */
export async function growLayers(directory: string, sizeBytes: number): Promise<AsyncDisposable> {
  const below = lastLayer(directory)
  if (sizeOfLayer(directory, below) >= sizeBytes) return new AsyncDisposableStack()
  const file = path.join(directory, layerName(below + 1))
  await createOverlay({ file, backing: layerName(below), backingFormat: below === 0 ? 'raw' : 'qcow2', sizeBytes }, true)
  return {
    async [Symbol.asyncDispose]() {
      await removeLayersAbove(directory, below)
      await syncDirectory(directory)
    },
  }
}

/** Size of the disk that a layer is of, in bytes. */
export function sizeOfLayer(directory: string, number: number): number {
  const file = path.join(directory, layerName(number))
  return number === 0 ? statSync(file).size : readOverlay(file).sizeBytes
}

export async function removeLayersAbove(directory: string, last: number): Promise<void> {
  for (const name of readdirSync(directory)) if ((layerNumber(name) ?? -1) > last) await rm(path.join(directory, name))
}

/** `conflict` if a layer has its contents anywhere but in itself and a layer below it: QEMU would follow any name that is in the file. */
export async function refuseForeignLayers(directory: string): Promise<void> {
  for (const name of readdirSync(directory)) {
    const number = layerNumber(name)
    if (number === undefined || number === 0) continue
    const { backing, format, elsewhere } = readBacking(path.join(directory, name))
    const below = backing === undefined ? undefined : layerNumber(backing)
    const isPlain = backing === undefined || (below !== undefined && below < number && format === (below === 0 ? 'raw' : 'qcow2'))
    if (isPlain && !elsewhere) continue
    throw new HypemanError(
      'conflict',
      `the disk layer ${path.join(directory, name)} names ${elsewhere ? 'a data file' : JSON.stringify(backing)} (${format ?? 'of no format'}), which is no layer below it; it was not made by hypeman: delete what it belongs to`,
    )
  }
}

/** Links the layers up to `last` into another directory. They are immutable from then on. */
export async function linkLayers(directory: string, target: string, last: number): Promise<void> {
  for (const name of readdirSync(directory)) {
    const number = layerNumber(name)
    if (number !== undefined && number <= last) await link(path.join(directory, name), path.join(target, name))
  }
}

/**
 * Joins a long chain up to a layer into one file under that layer's name; what others link to stays as it is. No process may write to any of
 * these layers, or open them again by name: QEMU keeps what it has open, so a live machine's layers below the one it froze last will do.
 * The name holds the same contents at every instant, and what is under it is on disk before the layers below go.
 */
export async function joinLayers(directory: string, upTo: number, signal?: AbortSignal): Promise<void> {
  const joined = path.join(directory, `disk-joined${TEMPORARY}`)
  await rm(joined, { force: true })
  const names = readdirSync(directory).filter((name) => {
    const number = layerNumber(name) ?? 0
    return number > 0 && number <= upTo
  })
  if (names.length <= DEEPEST) return
  try {
    // Copied in the kernel (-C), clusters share their blocks with the layers. Where that can't be, reading them finds zeros that need no room.
    const inKernel = (await diskErrors(joined, () => sharesBlocks(path.join(directory, layerName(upTo)), joined))) ? ['-C'] : []
    // Without a backing file: told of one (-B), qemu-img takes it for the last layer's and copies that layer alone.
    const args = ['convert', '-q', ...inKernel, '-f', 'qcow2', '-O', 'qcow2', layerName(upTo), joined]
    await diskErrors(joined, () => runDiskTool('qemu-img', args, directory, signal))
    await diskErrors(joined, () => syncFile(joined))
  } catch (error) {
    await rm(joined, { force: true })
    // The long chain is as good a disk as before, only slower.
    if (isHypemanError(error, 'storage_full')) return
    throw error
  }
  await rename(joined, path.join(directory, layerName(upTo)))
  await syncDirectory(directory)
  for (const name of names) if (name !== layerName(upTo)) await rm(path.join(directory, name))
}

/** The whole disk as one raw file, holes kept. */
export async function exportRaw(directory: string, file: string, signal: AbortSignal): Promise<void> {
  await refuseForeignLayers(directory)
  const name = layerName(lastLayer(directory))
  const format = name === BASE ? 'raw' : 'qcow2'
  await diskErrors(file, () => runDiskTool('qemu-img', ['convert', '-q', '-f', format, '-O', 'raw', name, file], directory, signal))
}

/** A raw file as the only layer of a staged directory: it is immutable from then on, the next start puts a layer over it. */
export async function importRaw(directory: string, file: string): Promise<void> {
  await diskErrors(directory, () => rename(file, path.join(directory, BASE)))
}
