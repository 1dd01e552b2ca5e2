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

type ReadElsewhere = (...args: [...Parameters<Read>, (error: Error | null, length: number | bigint) => void]) => void

// Justification: Node has no call for it, and copying is most of what a guest stands still for.
// Safety: the kernel writes only into `into`, whose length it is told and which lives until the call has returned; addresses of the other process are checked by it.
let calls: { readonly read: Read; readonly readElsewhere: ReadElsewhere } | undefined
function bindCalls(): NonNullable<typeof calls> {
  if (calls !== undefined) return calls
  const read = koffi
    .load(null)
    .func('long process_vm_readv(int pid, void *local, unsigned long liovcnt, void *remote, unsigned long riovcnt, unsigned long flags)')
  calls = { read: read as Read, readElsewhere: read.async as ReadElsewhere }
  return calls
}

/** Fills `into` from the parts (address and length, in turns) of a process's memory; a part that is not there is an error. */
export function readParts(pid: number, parts: BigUint64Array, into: Buffer): void {
  const length = Number(bindCalls().read(pid, place(into), 1n, parts, BigInt(parts.length / 2), 0n))
  if (length === into.length) return
  if (length < 0)
    throw new HypemanError(
      'host_unavailable',
      `guest memory of the process ${pid} can't be read (errno ${koffi.errno()}): run the server as root, or allow it to trace its own children (kernel.yama.ptrace_scope)`,
    )
  throw new HypemanError('host_unavailable', `guest memory of the process ${pid} ended ${into.length - length} bytes too early`)
}

/** The same by one of Node's threads. What fails there is tried once more here, where the system's error is told. */
export async function readPartsElsewhere(pid: number, parts: BigUint64Array, into: Buffer): Promise<void> {
  const local = place(into)
  const length = await new Promise<number | bigint>((resolve, reject) => {
    bindCalls().readElsewhere(pid, local, 1n, parts, BigInt(parts.length / 2), 0n, (error, result) => {
      if (error === null) resolve(result)
      else reject(error)
    })
  })
  if (Number(length) !== into.length) readParts(pid, parts, into)
}

function place(buffer: Buffer): BigUint64Array {
  return BigUint64Array.of(koffi.address(buffer), BigInt(buffer.length))
}
