// Guest memory of tests: base files, and pages written as guests write them, single ones and stretches.

import { open } from 'node:fs/promises'
import path from 'node:path'
import fc from 'fast-check'
import { createHoles } from '../../src/files/memory-image/image.ts'
import { findMapping, pageBytes, type Mapping } from '../../src/files/memory-image/private-pages.ts'

/** More than a window of copying, so that windows and their borders are met. */
export const pages = 700
export const ramBytes = pages * pageBytes

/** A base file: some pages hold their own number, the others are holes. */
export async function makeBase(file: string, filled: ReadonlySet<number>): Promise<void> {
  await createHoles(file, ramBytes)
  await using handle = await open(file, 'r+')
  for (const page of filled) await handle.write(Buffer.alloc(pageBytes, (page % 250) + 1), 0, pageBytes, page * pageBytes)
}

export function mappingOf(file: string, bytes = ramBytes): Promise<Mapping> {
  return findMapping(process.pid, new RegExp(`^${path.basename(file).replaceAll('.', '\\.')}$`), bytes)
}

/** Sets of pages as guests write them: single ones and stretches. */
export const somePages = fc
  .array(fc.tuple(fc.nat(pages - 1), fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 300 }))), { maxLength: 30 })
  .map((stretches) => new Set(stretches.flatMap(([first, length]) => range(first, Math.min(pages, first + length)))))

export function range(from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, index) => from + index)
}

export function write(memory: Buffer, written: ReadonlySet<number>): void {
  // Some pages are written with zeros: they are the process's own all the same.
  for (const page of written) memory.fill(page % 5 === 0 ? 0 : 255 - (page % 200), page * pageBytes, (page + 1) * pageBytes)
}
