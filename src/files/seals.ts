// Seals of files that nobody writes again: what each was when it was finished, so that later it can be told whether it still is. Which files are sealed,
// and where the seals lie, is their owner's (snapshots, instances in standby). What a check finds and what it can't: docs/reliability.md.

import path from 'node:path'
import { z } from 'zod'
import { contentDigestPattern, digestFile, digestSmallFile } from './content-digest.ts'
import type { Digests } from './digests.ts'
import { fileIdentity, identityKey, seeFile, type FileIdentity, type SeenFile } from './identity.ts'

export const fileSeal = z
  .object({
    /** Path below the directory of what is sealed. */
    name: z.string().regex(/^(?!\/)(?!(?:.*\/)?\.\.?(?:\/|$))./, 'not a path below a directory'),
    ...fileIdentity.shape,
    /** Of the contents; null until it was computed. */
    digest: z.string().regex(contentDigestPattern).nullable(),
    /** When a reading found contents that are not those of the digest; null as long as none did. */
    damagedAt: z.string().nullable(),
  })
  .readonly()

export type FileSeal = z.infer<typeof fileSeal>

/** A file is digested on the spot if this much of it is on disk at most, in bytes: less than a millisecond. */
const SMALL_BYTES = 256 * 1024

/**
 * Seals files below a directory. Small ones, and those of which everything is read before each use (`readWhole`), get their digest now; large ones if it
 * is known.
 */
export function sealFiles(
  directory: string,
  names: readonly string[],
  readWhole: (name: string) => boolean,
  digests: Digests,
): Promise<FileSeal[]> {
  return Promise.all(
    names.map(async (name) => {
      const file = path.join(directory, name)
      const seen = seeFile(file)
      if (seen?.isRegular !== true) throw new Error(`${file} is not a regular file`)
      const now = readWhole(name) || isSmall(seen)
      const digest = now ? await digestNow(file, seen) : (digests.known(seen) ?? null)
      return sealOf(name, seen, digest)
    }),
  )
}

/** At most this many bytes are read without giving way to others. */
const AT_ONCE_BYTES = 1024 ** 2

function digestNow(file: string, { sizeBytes }: FileIdentity): string | Promise<string> {
  return sizeBytes <= AT_ONCE_BYTES ? digestSmallFile(file) : digestFile(file).then(({ digest }) => digest)
}

/** True for what is not worth remembering or sharing. */
export function isSmall({ allocatedBytes }: Pick<SeenFile, 'allocatedBytes'>): boolean {
  return allocatedBytes <= SMALL_BYTES
}

export function sealOf(name: string, identity: FileIdentity, digest: string | null): FileSeal {
  const { sizeBytes, modifiedNs, inode, bornNs } = identity
  return { name, sizeBytes, modifiedNs, inode, bornNs, digest, damagedAt: null }
}

/** What is wrong with a sealed file, in words that follow its name. */
export interface FileProblem {
  readonly name: string
  readonly kind: 'bad' | 'missing'
  readonly what: string
}

export interface SealCheck {
  readonly problems: readonly FileProblem[]
  /** Seals of files that are another version with the same contents: put back from a copy, or touched. */
  readonly renewed: readonly FileSeal[]
}

/**
 * Looks at every sealed file without reading the large ones: a version that is not the sealed one has to prove its contents first. `readWhole` files are
 * read in any case.
 */
export async function checkSeals(
  directory: string,
  seals: readonly FileSeal[],
  readWhole: (name: string) => boolean,
  digests: Digests,
): Promise<SealCheck> {
  const found = await Promise.all(seals.map((seal) => checkSeal(path.join(directory, seal.name), seal, readWhole(seal.name), digests)))
  return {
    problems: found.flatMap(({ problem }) => problem ?? []),
    renewed: found.flatMap(({ renewed }) => renewed ?? []),
  }
}

interface Checked {
  readonly problem?: FileProblem
  readonly renewed?: FileSeal
}

async function checkSeal(file: string, seal: FileSeal, readWhole: boolean, digests: Digests): Promise<Checked> {
  const seen = seeFile(file)
  const surface = lookAt(seal, seen)
  if (surface !== undefined) return { problem: surface }
  if (seen === undefined) return {}
  const same = identityKey(seen) === identityKey(seal)
  if (same && (seal.damagedAt !== null || digests.isDamaged(seal)))
    return { problem: bad(seal, 'was found damaged when its contents were verified') }
  if (same && !readWhole) return {}
  if (seal.digest === null) return wasCopied(seal, seen) ? {} : { problem: bad(seal, writtenBeforeDigest) }
  const digest = await (readWhole || isSmall(seen) ? digestNow(file, seen) : digests.prove(file, seen))
  if (digest !== seal.digest) return { problem: bad(seal, 'has other contents than when it was saved') }
  return same ? {} : { renewed: sealOf(seal.name, seen, digest) }
}

/** What can be told without opening the file. */
export function lookAt(seal: FileSeal, seen: SeenFile | undefined): FileProblem | undefined {
  if (seen === undefined) return { name: seal.name, kind: 'missing', what: 'is missing' }
  if (!seen.isRegular) return bad(seal, 'is not a regular file any more')
  if (seen.sizeBytes !== seal.sizeBytes) return bad(seal, `has ${seen.sizeBytes} bytes instead of ${seal.sizeBytes}`)
  return undefined
}

/** Said of a file without a digest that is not the version that was sealed: nobody can tell any more what it held. */
export const writtenBeforeDigest = 'was written to before its digest was known'

/** The data directory was copied: the file is another one, last written when the sealed one was. */
export function wasCopied(seal: FileSeal, seen: FileIdentity): boolean {
  return seal.modifiedNs === seen.modifiedNs && seal.sizeBytes === seen.sizeBytes
}

/** The very version that was sealed, or a copy of it. */
export function isSealed(seal: FileSeal, seen: FileIdentity): boolean {
  return identityKey(seal) === identityKey(seen) || wasCopied(seal, seen)
}

function bad({ name }: FileSeal, what: string): FileProblem {
  return { name, kind: 'bad', what }
}
