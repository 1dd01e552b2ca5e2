// How much of its guest's memory a VMM has for itself: pages of the privately mapped base that were written since the process mapped it.

import { readFile } from 'node:fs/promises'

/** In MiB. */
export async function privateMib(pid: number): Promise<number> {
  return privateBytesOf(await readFile(`/proc/${pid}/smaps`, 'utf8')) / 1024 ** 2
}

/**
 * Of the text of `/proc/<pid>/smaps` (proc(5)). A written page of a private file mapping is anonymous, in RAM or swapped out. QEMU may have split
 * the mapping: all parts count.
 */
export function privateBytesOf(smaps: string): number {
  let [found, inBase, kib] = [false, false, 0]
  for (const line of smaps.split('\n')) {
    if (/^[0-9a-f]+-[0-9a-f]+ /.test(line)) {
      inBase = /\/memory-\d+\.base(?: \(deleted\))?$/.test(line)
      found ||= inBase
    } else if (inBase) kib += Number(/^(?:Anonymous|Swap): +(\d+) kB$/.exec(line)?.[1] ?? 0)
  }
  if (!found) throw new Error('the process maps no guest memory')
  return kib * 1024
}
