// Guest kernels: imports the installed kernel and initramfs into the data directory by digest, so that what a memory image was
// written with stays to restore it, whatever is installed later. Not for building them (scripts/setup).

import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { lstat } from 'node:fs/promises'
import path from 'node:path'
import { pipeline } from 'node:stream/promises'
import { HypemanError } from '../api/errors.ts'
import { copyPayload } from '../files/copy.ts'
import type { DataLayout } from '../files/layout.ts'
import { createStaged } from '../files/stage.ts'
import { refuseForeignFiles } from '../files/tree.ts'

export interface Kernel {
  /** First 24 hexadecimal digits of the SHA-256 over kernel and initramfs. */
  readonly id: string
  /** Absolute paths. */
  readonly kernel: string
  readonly initrd: string
}

/** Imports `vmlinuz` and `initrd.cpio` of `assets` if their digest is new, and returns the kernel for new instances. */
export async function importKernel(layout: DataLayout, assets: string): Promise<Kernel> {
  const source = { kernel: path.join(assets, 'vmlinuz'), initrd: path.join(assets, 'initrd.cpio') }
  const hash = createHash('sha256')
  for (const file of [source.kernel, source.initrd]) {
    try {
      await pipeline(createReadStream(file), async (chunks) => {
        for await (const chunk of chunks as AsyncIterable<Buffer>) hash.update(chunk)
      })
    } catch (cause) {
      throw new HypemanError('host_unavailable', `the guest kernel is not installed (${file} can't be read); run npm run setup`, { cause })
    }
  }
  const id = hash.digest('hex').slice(0, 24)
  if (await exists(layout.kernel(id))) refuseForeignFiles(layout.kernel(id))
  else {
    await using staged = await createStaged(layout, `kernel-${id}`)
    await copyPayload(source.kernel, path.join(staged.path, 'vmlinuz'), { durable: false })
    await copyPayload(source.initrd, path.join(staged.path, 'initrd.cpio'), { durable: false })
    await staged.commit(layout.kernel(id))
  }
  return kernelOf(layout, id)
}

/** The kernel of an id that a record names. */
export function kernelOf(layout: DataLayout, id: string): Kernel {
  return { id, kernel: path.join(layout.kernel(id), 'vmlinuz'), initrd: path.join(layout.kernel(id), 'initrd.cpio') }
}

async function exists(file: string): Promise<boolean> {
  return lstat(file).then(
    () => true,
    () => false,
  )
}
