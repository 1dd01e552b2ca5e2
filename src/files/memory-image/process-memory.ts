// Reading the memory of another process in one call: process_vm_readv(2). Some two hundred pieces by /proc/PID/mem took 4 to 10 ms while the guest stood still.

import koffi from 'koffi'
import { HypemanError } from '../../api/errors.ts'

/** IOV_MAX of Linux. */
export const MOST_PARTS = 1024

type Read = (
  pid: number,
  local: BigUint64Array,
  localParts: bigint,
  remote: BigUint64Array,
  remoteParts: bigint,
  flags: bigint,
) => number | bigint

// Justification: Node has no call for it, and copying is most of what a guest stands still for.
// Safety: the kernel writes only into `into`, whose length it is told and which lives until the call has returned; addresses of the other process are checked by it.
let read: Read | undefined

/** Fills `into` from the parts (address and length, in turns) of a process's memory; a part that is not there is an error. */
export function readParts(pid: number, parts: BigUint64Array, into: Buffer): void {
  read ??= koffi
    .load(null)
    .func(
      'long process_vm_readv(int pid, void *local, unsigned long liovcnt, void *remote, unsigned long riovcnt, unsigned long flags)',
    ) as Read
  const local = BigUint64Array.of(koffi.address(into), BigInt(into.length))
  const length = Number(read(pid, local, 1n, parts, BigInt(parts.length / 2), 0n))
  if (length === into.length) return
  if (length < 0)
    throw new HypemanError(
      'host_unavailable',
      `guest memory of the process ${pid} can't be read (errno ${koffi.errno()}): run the server as root, or allow it to trace its own children (kernel.yama.ptrace_scope)`,
    )
  throw new HypemanError('host_unavailable', `guest memory of the process ${pid} ended ${into.length - length} bytes too early`)
}
