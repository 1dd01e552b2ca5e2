// Runs the tools that make and convert disks (qemu-img, mke2fs). What they say is the error, and a full disk is told as such.

import { execa } from 'execa'
import { HypemanError } from '../api/errors.ts'

/** Runs one of QEMU's or e2fsprogs' tools; what it says is the error. */
export async function runDiskTool(command: string, args: readonly string[], cwd: string, signal?: AbortSignal): Promise<void> {
  const cancel = signal === undefined ? {} : { cancelSignal: signal }
  const result = await execa(command, args, { ...cancel, cwd, reject: false, env: { E2FSPROGS_FAKE_TIME: '1', MKE2FS_SYNC: '0' } })
  if (!result.failed) return
  signal?.throwIfAborted()
  if (result.code === 'ENOENT')
    throw new HypemanError('host_unavailable', `${command} can't be run; install qemu-utils and e2fsprogs (npm run setup)`)
  if (/no space left|enospc/i.test(result.stderr)) throw Object.assign(new Error(result.shortMessage), { code: 'ENOSPC' })
  throw new HypemanError('host_unavailable', `${command} failed: ${result.stderr.trim().split('\n').at(-1) ?? result.shortMessage}`)
}
