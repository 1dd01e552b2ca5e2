// Loaded into a server (--import), makes it a bad one: syncs of what HYPEMAN_TEST_UNSYNCED names (`files`, `directories` or `everything`) are not done.

import { open, type FileHandle } from 'node:fs/promises'

const unsynced = process.env['HYPEMAN_TEST_UNSYNCED']

const handle = await open('/dev/null')
const prototype: Pick<FileHandle, 'sync' | 'stat'> = Object.getPrototypeOf(handle)
await handle.close()

const sync = prototype.sync
prototype.sync = async function (this: FileHandle) {
  if (unsynced === 'everything') return
  const what = (await this.stat()).isDirectory() ? 'directories' : 'files'
  if (what !== unsynced) await sync.call(this)
}
