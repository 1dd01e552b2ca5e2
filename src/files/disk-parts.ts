// Where file systems of their own lie behind the one that a system disk begins with. Pure: making them is each driver's work.

/** A stretch of a disk, in bytes. */
interface Stretch {
  readonly offsetBytes: number
  readonly sizeBytes: number
}

/** Where a part begins, in bytes: more than any file system or disk asks for. */
const ALIGNMENT = 1024 ** 2
/** Of the size of a file system, in bytes. */
const GRANULE = 1024

/** Parts of those sizes, one after the other behind a disk's present end. */
export function partsBehind(
  diskBytes: number,
  sizes: readonly number[],
): { readonly parts: readonly Stretch[]; readonly endBytes: number } {
  const parts: Stretch[] = []
  let endBytes = diskBytes
  for (const size of sizes) {
    const part = { offsetBytes: Math.ceil(endBytes / ALIGNMENT) * ALIGNMENT, sizeBytes: Math.floor(size / GRANULE) * GRANULE }
    parts.push(part)
    endBytes = part.offsetBytes + part.sizeBytes
  }
  return { parts, endBytes }
}
