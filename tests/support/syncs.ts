// Watches every fsync that Node's file handles make while a test runs: for what must be on disk before what, and for disks that fail.

import { readlinkSync } from 'node:fs'
import { open, type FileHandle } from 'node:fs/promises'
import type { TestContext } from 'node:test'

/** `before` is told the path of each file that is about to be synced; what it throws is the sync's failure. Ends with the test. */
export async function watchSyncs(t: TestContext, before: (file: string) => void | Promise<void>): Promise<void> {
  await using handle = await open('/', 'r')
  const handles = Object.getPrototypeOf(handle) as { readonly sync: (this: FileHandle) => Promise<void> }
  const { sync } = handles
  t.mock.method(handles, 'sync', async function (this: FileHandle) {
    await before(readlinkSync(`/proc/self/fd/${this.fd}`))
    await sync.call(this)
  })
}

/** A disk error, as the kernel tells it. */
export function failingDisk(): Error {
  return Object.assign(new Error('EIO: i/o error, fsync'), { code: 'EIO' })
}
