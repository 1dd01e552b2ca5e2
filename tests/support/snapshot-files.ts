// The files of a snapshot as they lie on disk, and which of them have digests by now.

import assert from 'node:assert/strict'
import { readdir, readFile } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { z } from 'zod'
import type { TestServer } from './server.ts'

/** Until digests must be complete, in milliseconds. */
const HASH_LIMIT_MS = 60_000

const sealsFile = z.object({ files: z.array(z.object({ name: z.string(), digest: z.string().nullable() })) })

/** Absolute path of a file, by its path below the snapshot's directory. */
export function snapshotFile({ dataDirectory }: Pick<TestServer, 'dataDirectory'>, id: string, name: string): string {
  return path.join(dataDirectory, 'snapshots', id, name)
}

/** Paths below the snapshot's directory of all that lies there. */
export async function snapshotFileNames(server: Pick<TestServer, 'dataDirectory'>, id: string): Promise<string[]> {
  const directory = snapshotFile(server, id, '.')
  const entries = await readdir(directory, { recursive: true, withFileTypes: true })
  return entries.flatMap((entry) => (entry.isFile() ? path.relative(directory, path.join(entry.parentPath, entry.name)) : []))
}

/** The digests in the snapshot's seals; null for those that are not there yet. */
export async function digestsOf(server: Pick<TestServer, 'dataDirectory'>, id: string): Promise<Map<string, string | null>> {
  const { files } = sealsFile.parse(JSON.parse(await readFile(snapshotFile(server, id, 'seals.json'), 'utf8')))
  return new Map(files.map(({ name, digest }) => [name, digest]))
}

export async function untilHashed(server: Pick<TestServer, 'dataDirectory'>, id: string): Promise<void> {
  const deadline = performance.now() + HASH_LIMIT_MS
  while ([...(await digestsOf(server, id)).values()].includes(null)) {
    assert.ok(performance.now() < deadline, `the digests of ${id} are complete within ${HASH_LIMIT_MS / 1000} s`)
    await delay(20)
  }
}
