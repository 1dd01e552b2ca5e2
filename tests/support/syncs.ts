// Watches every fsync that is made while a test runs: for what must be on disk before what, and for disks that fail.

import fs, { readlinkSync, type NoParamCallback } from 'node:fs'
import { open, type FileHandle } from 'node:fs/promises'
import { syncBuiltinESMExports } from 'node:module'
import { callbackify } from 'node:util'
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
  const { fsync } = fs
  t.mock.method(fs, 'fsync', (fd: number, done: NoParamCallback) => {
    const watched = callbackify(async () => before(readlinkSync(`/proc/self/fd/${fd}`)))
    watched((error: NodeJS.ErrnoException | null) => (error === null ? fsync(fd, done) : done(error)))
  })
  syncBuiltinESMExports()
  t.after(() => {
    t.mock.restoreAll()
    syncBuiltinESMExports()
  })
}

/** A disk error, as the kernel tells it. */
export function failingDisk(): Error {
  return Object.assign(new Error('EIO: i/o error, fsync'), { code: 'EIO' })
}
