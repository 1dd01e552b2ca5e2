// Waiting for several descriptors in one call, by a process that has nothing else to do: poll(2).

import koffi from 'koffi'

/** struct pollfd: an int, and two shorts: what is asked, what is the case. */
const ENTRY_BYTES = 8
const POLLIN = 1

// Justification: Node waits for descriptors of its own kinds alone, and never in a call.
// Safety: the kernel writes only into the array, whose length it is told.
type Poll = (entries: Buffer, count: number, timeoutMs: number) => number
let poll: Poll | undefined

/** Which of the descriptors can be read, have ended or failed. `timeoutMs`: 0 looks, -1 waits until one of them. */
export function pollReadable(descriptors: readonly number[], timeoutMs: number): boolean[] {
  poll ??= koffi.load(null).func('int poll(_Inout_ uint8_t *entries, unsigned long count, int timeout)') as Poll
  const entries = Buffer.alloc(descriptors.length * ENTRY_BYTES)
  for (const [index, descriptor] of descriptors.entries()) {
    entries.writeInt32LE(descriptor, index * ENTRY_BYTES)
    entries.writeInt16LE(POLLIN, index * ENTRY_BYTES + 4)
  }
  if (poll(entries, descriptors.length, timeoutMs) < 0 && koffi.errno() !== koffi.os.errno['EINTR'])
    throw new Error(`descriptors can't be waited for (errno ${koffi.errno()})`)
  return descriptors.map((_, index) => entries.readInt16LE(index * ENTRY_BYTES + 6) !== 0)
}
