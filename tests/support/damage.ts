// Damage to files on disk as it happens: a bit flipped by a write, or by the disk itself, so that nothing but the contents tells. Each can be taken back.
// What is set aside lies in the temporary directory, which is on the same filesystem as the data directories of test servers.

import { randomUUID } from 'node:crypto'
import { constants } from 'node:fs'
import { open, rename, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { copyPayload } from '../../src/files/copy.ts'
import { extentsOf } from '../../src/files/extents.ts'
import { run } from './command.ts'

/** Flips one bit in the middle of a file's data, in place. */
async function flipBit(file: string): Promise<void> {
  await using handle = await open(file, constants.O_RDWR)
  const { size } = await handle.stat()
  const extents = [...extentsOf(handle.fd, size, file)]
  const extent = extents[Math.floor(extents.length / 2)]
  if (extent === undefined) throw new Error(`${file} has no data`)
  const at = Math.floor((extent.from + extent.to) / 2)
  const byte = Buffer.alloc(1)
  await handle.read(byte, 0, 1, at)
  byte[0] = (byte[0] ?? 0) ^ 0x10
  await handle.write(byte, 0, 1, at)
  await handle.sync()
}

/** Flips a bit so that the file's times don't tell. Disposing flips it back. */
export async function rotBit(file: string): Promise<AsyncDisposable> {
  await flipSilently(file)
  return { [Symbol.asyncDispose]: () => flipSilently(file) }
}

async function flipSilently(file: string): Promise<void> {
  const times = path.join(os.tmpdir(), `times-${randomUUID()}`)
  await exact('touch', ['-r', file, times])
  await flipBit(file)
  await exact('touch', ['-r', times, file])
  await rm(times)
}

/** Puts a copy with a flipped bit in the file's place; what shares the file is not touched. Disposing puts the file back. */
export async function replaceDamaged(file: string): Promise<AsyncDisposable> {
  const kept = await setAside(file)
  await copyPayload(kept.path, file)
  await flipBit(file)
  return kept
}

/** Takes a file or directory away. Disposing puts it back. */
export async function setAside(file: string): Promise<AsyncDisposable & { readonly path: string }> {
  const aside = path.join(os.tmpdir(), `aside-${randomUUID()}`)
  await rename(file, aside)
  return {
    path: aside,
    async [Symbol.asyncDispose]() {
      await rm(file, { recursive: true, force: true })
      await rename(aside, file)
    },
  }
}

async function exact(command: string, args: readonly string[]): Promise<void> {
  const { code, stderr } = await run(command, args)
  if (code !== 0) throw new Error(`${command}: ${stderr}`)
}
