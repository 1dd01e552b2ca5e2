// The diffs over a base in a directory: `memory-<n>.diff`, in the order of their numbers. They are immutable and shared by hard link; a number is never used again
// while its directory holds a higher one.

import { readdirSync } from 'node:fs'
import { link, rm } from 'node:fs/promises'
import path from 'node:path'
import { saveChanges, type CapturedPages } from '../../files/memory-image/changes.ts'

/** One without a number is of an image that had one at most (version 1 of the manifest), and comes first. */
export const diffPattern = /^memory(?:-(\d+))?\.diff$/

function numberOf(name: string): number {
  return Number(diffPattern.exec(name)?.[1] ?? 0)
}

/** Removes all diffs in a directory but those kept. */
export async function removeDiffs(directory: string, keep: readonly string[] = []): Promise<void> {
  for (const name of readdirSync(directory))
    if (diffPattern.test(name) && !keep.includes(name)) await rm(path.join(directory, name), { recursive: true, force: true })
}

/** Names of all diffs in a directory, in their order. */
export function diffsIn(directory: string): string[] {
  const names = readdirSync(directory).filter((name) => diffPattern.test(name))
  return names.toSorted((one, other) => numberOf(one) - numberOf(other))
}

export interface SavedDiffs {
  /** Of the image, in their order. */
  readonly diffs: readonly string[]
  readonly memoryBytes: number
}

/**
 * Writes into `target` what the pages of a process add to the diffs in `source`, the directory with the base that it maps, and links these. Afterwards `source` holds the
 * same diffs, which the next image is compared with.
 */
export async function saveDiff(
  pages: CapturedPages,
  base: string,
  source: string,
  target: string,
  signal: AbortSignal,
): Promise<SavedDiffs> {
  const earlier = diffsIn(source)
  const added = `memory-${numberOf(earlier.at(-1) ?? '') + 1}.diff`
  const earlierImage = { base, diffs: earlier.map((name) => path.join(source, name)) }
  const { over, bytes } = await saveChanges(pages, earlierImage, path.join(target, added), signal)
  const linked = over.map((file) => path.basename(file))
  const diffs = bytes === 0 ? linked : [...linked, added]
  if (source !== target) {
    await Promise.all(linked.map((name) => link(path.join(source, name), path.join(target, name))))
    if (bytes > 0) await link(path.join(target, added), path.join(source, added))
  }
  await removeDiffs(source, diffs)
  return { diffs, memoryBytes: bytes }
}
