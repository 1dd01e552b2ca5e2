// The kernel's own search for private pages, a hundred times faster than reading the whole pagemap.
// Facts: Documentation/admin-guide/mm/pagemap.rst, include/uapi/linux/fs.h (PAGEMAP_SCAN, Linux ≥ 6.7): an ioctl on /proc/PID/pagemap.

import koffi from 'koffi'

/** _IOWR('f', 16, struct pm_scan_arg), which has twelve u64. */
const PAGEMAP_SCAN = 0xc060_6610
const ARGUMENT_WORDS = 12
const field = { size: 0, start: 2, end: 3, walkEnd: 4, vector: 5, vectorLength: 6, inverted: 8, mask: 9, anyOf: 10, returned: 11 } as const
const category = { file: 4n, present: 8n, swapped: 16n, zero: 32n } as const
/** struct page_region: start, end, categories. */
const REGION_WORDS = 3
const REGIONS_AT_ONCE = 4096

type Ioctl = (fd: number, request: number, argument: BigUint64Array) => number

// Justification: Node has no ioctl(2), and the pagemap of a large guest takes longer to read than all else that is done while it stands still.
// Safety: the kernel writes only into the two arrays, which live until the call has returned; it takes no longer than a few milliseconds.
let ioctl: Ioctl | undefined

/** Regions of addresses, in order, whose pages are private; `dropZero`: but for those that are the kernel's page of zeros. undefined if this kernel can't search. */
export function scanPrivate(
  pagemap: number,
  start: number,
  end: number,
  dropZero: boolean,
): { readonly start: number; readonly end: number }[] | undefined {
  if (process.platform !== 'linux') return undefined
  ioctl ??= koffi.load(null).func('int ioctl(int, unsigned long, void *)') as Ioctl
  const vector = new BigUint64Array(REGIONS_AT_ONCE * REGION_WORDS)
  const argument = new BigUint64Array(ARGUMENT_WORDS)
  const found: { start: number; end: number }[] = []
  for (let at = start; at < end;) {
    argument.fill(0n)
    argument[field.size] = BigInt(ARGUMENT_WORDS * 8)
    argument[field.start] = BigInt(at)
    argument[field.end] = BigInt(end)
    argument[field.vector] = koffi.address(vector)
    argument[field.vectorLength] = BigInt(REGIONS_AT_ONCE)
    // Not the file's, and there or swapped out.
    const none = dropZero ? category.file | category.zero : category.file
    argument[field.inverted] = none
    argument[field.mask] = none
    argument[field.anyOf] = category.present | category.swapped
    const count = ioctl(pagemap, PAGEMAP_SCAN, argument)
    if (count < 0) return undefined
    for (let index = 0; index < count; index += 1) {
      const region = { start: Number(vector[index * REGION_WORDS] ?? 0n), end: Number(vector[index * REGION_WORDS + 1] ?? 0n) }
      const last = found.at(-1)
      if (last?.end === region.start) last.end = region.end
      else found.push(region)
    }
    // After more than 512 regions the kernel (seen on 6.18) names where it was after those, although it went on: what it has found is not to be found again.
    const walked = Math.max(Number(argument[field.walkEnd] ?? 0n), count === 0 ? 0 : (found.at(-1)?.end ?? 0))
    if (walked <= at) return undefined
    at = walked
  }
  return found
}
