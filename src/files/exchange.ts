// Swaps two directories in one step, so that at every instant, also after a crash, each name holds one of the two whole.

import koffi from 'koffi'
import { HypemanError } from '../api/errors.ts'
import { failedCall } from './unsuitable.ts'

const AT_FDCWD = -100
/** renameat2(2); Linux ≥ 3.15 on ext4, XFS, btrfs, tmpfs. */
const RENAME_EXCHANGE = 2

type RenameAt2 = (oldDirectory: number, oldPath: string, newDirectory: number, newPath: string, flags: number) => number

// Justification: Node's rename(2) can't exchange, and two renames leave an instant with nothing under the name.
// Safety: koffi copies both strings for the call and keeps no pointer; success is told by the result alone.
let renameat2: RenameAt2 | undefined
function bindRenameAt2(): RenameAt2 {
  if (process.platform !== 'linux')
    throw new HypemanError(
      'storage_unsuitable',
      `directories can't be exchanged in one step on ${process.platform}; restoring in place needs Linux`,
    )
  renameat2 ??= koffi.load(null).func('int renameat2(int, const char *, int, const char *, unsigned int)') as RenameAt2
  return renameat2
}

/** Exchanges two existing paths on one filesystem. The caller syncs the parents (stage.ts). */
export function exchangePaths(one: string, other: string): void {
  if (bindRenameAt2()(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE) === 0) return
  throw failedCall(one, 'renameat2', koffi.errno(), `can't exchange it with ${other}`)
}
