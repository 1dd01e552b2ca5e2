// Copies a resolved image from its registry into an OCI layout, and tells how far it is. What the image is was decided before (resolve.ts).

import { readdir, stat } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { HypemanError } from '../api/errors.ts'
import { isMissing } from '../files/tree.ts'
import { IMAGE_NAME } from './layout-directory.ts'
import type { Reference } from './reference.ts'
import { explainRegistry, openRegistryAccess } from './registry-access.ts'
import { lastLine, runTool, ToolError } from './tool.ts'
import type { RegistryCredentials } from './types.ts'

export interface Fetch {
  readonly reference: Reference
  readonly digest: string
  readonly credentials: RegistryCredentials | undefined
  /** The pull's own staged directory; the image comes to `layout` below it. */
  readonly work: string
  readonly layout: string
  readonly signal: AbortSignal
  onProgress(doneBytes: number): void
}

/** How often the files that skopeo writes are looked at, in milliseconds. */
const LOOK_EVERY_MS = 250

export async function fetchImage(fetch: Fetch): Promise<void> {
  const { reference, digest, credentials, work, layout, signal } = fetch
  await using access = await openRegistryAccess(work, reference, credentials)
  const ended = new AbortController()
  const looking = watchGrowth(path.join(work, layout), (bytes) => fetch.onProgress(bytes), ended.signal)
  try {
    await runTool(
      'skopeo',
      [
        ...['--tmpdir', work, 'copy', '--quiet', '--retry-times', '2', '--dest-oci-accept-uncompressed-layers'],
        ...[`--src-tls-verify=${access.tlsVerify}`, access.source({ digest }), `oci:${layout}:${IMAGE_NAME}`],
      ],
      { cwd: work, signal, env: access.env },
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

async function watchGrowth(layout: string, onProgress: (doneBytes: number) => void, ended: AbortSignal): Promise<void> {
  let last = -1
  while (!ended.aborted) {
    const bytes = await sizeOf(layout)
    if (bytes !== last) onProgress(bytes)
    last = bytes
    // Rejects when the copy has ended, which ends the loop.
    await delay(LOOK_EVERY_MS, undefined, { signal: ended }).catch(() => undefined)
  }
}

/** Blobs that are whole, and those that are still being written beside them. */
async function sizeOf(layout: string): Promise<number> {
  let sum = 0
  for (const directory of [layout, path.join(layout, 'blobs', 'sha256')])
    for (const entry of await readdir(directory, { withFileTypes: true }).catch(nothingYet)) {
      if (!entry.isFile()) continue
      sum += await stat(path.join(directory, entry.name)).then(({ size }) => size, goneSince)
    }
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
