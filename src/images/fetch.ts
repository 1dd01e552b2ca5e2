// Copies a resolved image from its registry into an OCI layout, and tells how far it is. What the image is was decided before (resolve.ts).

import { readdir, rename, stat } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { HypemanError } from '../api/errors.ts'
import { isMissing } from '../files/tree.ts'
import { isPlainBlob, MANIFEST_FILE } from './kept-blobs.ts'
import { blobPath, createLayout, nameImage } from './layout-directory.ts'
import type { ImageManifest } from './manifest.ts'
import type { Reference } from './reference.ts'
import { explainRegistry, openRegistryAccess } from './registry-access.ts'
import { lastLine, runTool, ToolError } from '../platform/tool.ts'
import type { RegistryCredentials } from './types.ts'

export interface Fetch {
  readonly reference: Reference
  readonly digest: string
  readonly manifest: ImageManifest
  readonly credentials: RegistryCredentials | undefined
  /** The pull's own staged directory; the image comes to `layout` below it, and its manifest as the registry has it is a blob there, too. */
  readonly work: string
  readonly layout: string
  readonly signal: AbortSignal
  onProgress(doneBytes: number): void
}

/** How often the files that skopeo writes are looked at, in milliseconds. */
const LOOK_EVERY_MS = 250
/** Where skopeo puts the blobs as the registry has them: as a layout it would write a Docker image's manifest and config anew. */
const FETCHED = 'fetched'

export async function fetchImage(fetch: Fetch): Promise<void> {
  const { work, layout, digest, manifest } = fetch
  await copyBlobs(fetch)
  const fetched = path.join(work, FETCHED)
  const at = path.join(work, layout)
  await createLayout(at)
  for (const name of await readdir(fetched)) if (isPlainBlob(name)) await rename(path.join(fetched, name), blobPath(at, `sha256:${name}`))
  await nameImage(at, manifest)
  await rename(path.join(fetched, MANIFEST_FILE), blobPath(at, digest))
}

async function copyBlobs(fetch: Fetch): Promise<void> {
  const { reference, digest, credentials, work, signal } = fetch
  await using access = await openRegistryAccess(work, reference, credentials)
  const ended = new AbortController()
  const looking = watchGrowth(path.join(work, FETCHED), (bytes) => fetch.onProgress(bytes), ended.signal)
  try {
    await runTool(
      'skopeo',
      [
        ...['--tmpdir', work, 'copy', '--quiet', '--retry-times', '2', '--preserve-digests'],
        ...[`--src-tls-verify=${access.tlsVerify}`, access.address({ digest }), `dir:${FETCHED}`],
      ],
      { cwd: work, signal, env: access.env, inherit: access.inherit },
    )
  } catch (error) {
    if (
      error instanceof ToolError &&
      /digest did not match|digest mismatch|size mismatch|invalid checksum|unexpected EOF|gzip:|zlib:/i.test(error.said)
    )
      throw new HypemanError('invalid_archive', `a layer of ${reference.name} is damaged in the registry: ${lastLine(error.said)}`, {
        cause: error,
      })
    throw explainRegistry(error, reference, credentials)
  } finally {
    ended.abort()
    await looking
  }
}

async function watchGrowth(directory: string, onProgress: (doneBytes: number) => void, ended: AbortSignal): Promise<void> {
  let last = -1
  while (!ended.aborted) {
    const bytes = await sizeOf(directory)
    if (bytes !== last) onProgress(bytes)
    last = bytes
    // Rejects when the copy has ended, which ends the loop.
    await delay(LOOK_EVERY_MS, undefined, { signal: ended }).catch(() => undefined)
  }
}

/** Blobs that are whole, and those that are still being written beside them. */
async function sizeOf(directory: string): Promise<number> {
  let sum = 0
  for (const entry of await readdir(directory, { withFileTypes: true }).catch(nothingYet))
    if (entry.isFile()) sum += await stat(path.join(directory, entry.name)).then(({ size }) => size, goneSince)
  return sum
}

function nothingYet(error: unknown): [] {
  if (isMissing(error)) return []
  throw error
}

function goneSince(error: unknown): number {
  if (isMissing(error)) return 0
  throw error
}
