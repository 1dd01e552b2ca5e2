// S8: copies of payloads. Without reflink by turns with `cp --sparse=always`, with it a large file by turns with a small one. Needs no server.

import { execFile } from 'node:child_process'
import { mkdtemp, open, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import { cloneFile } from '../src/files/clone.ts'
import { copyPayload } from '../src/files/copy.ts'
import { syncDirectory, syncFile } from '../src/files/stage.ts'
import { diskMissing, mountDisk } from '../tests/support/loop-disk.ts'
import { ratioRow, type Bench, type Row } from './measure.ts'

const KIB = 1024
const MIB = 1024 ** 2
/** What guests leave: pages, clusters, and stretches of them. */
const EXTENT_KIB = [4, 64, 16, 256, 8, 128, 32, 512] as const
/** At least 0.9 times the speed. */
const SLOWEST = 1.11

type Runs = Pick<Bench, 'runs' | 'say' | 'leaveOut'>

export async function measureCopies(bench: Runs): Promise<Row[]> {
  const home = await mkdtemp(path.join(os.tmpdir(), 'bench-copy-'))
  await using _home = { [Symbol.asyncDispose]: () => rm(home, { recursive: true }) }
  return [...(await byExtents(home, bench)), ...(await byReflink(bench))]
}

async function byExtents(home: string, { runs, say, leaveOut }: Runs): Promise<Row[]> {
  const [source, target] = [path.join(home, 'source'), path.join(home, 'target')]
  const extents = await makeScattered(source)
  if (await cloneFile(source, target)) {
    leaveOut('S8', `copies by extents: ${home} shares blocks`)
    return []
  }
  const rows: Row[] = []
  for (const durable of [false, true]) {
    const [ours, floors]: [number[], number[]] = [[], []]
    // The first of each is not counted: the thread that copies starts, and both find the file in memory from then on.
    for (let run = 0; run <= runs; run += 1) {
      const byCp = async (): Promise<void> => void floors.push(await copied(target, () => copyByCp(source, target, durable)))
      const byUs = async (): Promise<void> => void ours.push(await copied(target, () => copyPayload(source, target, { durable })))
      // Who comes second finds a busier disk.
      for (const copy of run % 2 === 0 ? [byCp, byUs] : [byUs, byCp]) await copy()
      say(`copy by extents, ${durable ? 'synced' : 'not synced'}: run ${run} of ${runs}`)
    }
    const what = `copy of 1 GiB with 300 MiB in ${extents} extents, ${durable ? 'both synced' : 'neither synced'}`
    rows.push(ratioRow('S8', what, SLOWEST, ours.slice(1), floors.slice(1)))
  }
  return rows
}

/** 1 GiB with 300 MiB of data in extents of mixed sizes at even distances. Returns how many. */
async function makeScattered(file: string): Promise<number> {
  const perRound = EXTENT_KIB.reduce((sum, kib) => sum + kib, 0) * KIB
  const rounds = Math.floor((300 * MIB) / perRound)
  const step = Math.floor((KIB * MIB) / (rounds * EXTENT_KIB.length) / (4 * KIB)) * 4 * KIB
  await using handle = await open(file, 'wx')
  let position = 0
  for (let round = 0; round < rounds; round += 1) {
    for (const kib of EXTENT_KIB) {
      await handle.write(Buffer.alloc(kib * KIB, (kib % 250) + 1), 0, kib * KIB, position)
      position += Math.max(step, (kib + 4) * KIB)
    }
    // What the longest extents took too much is given back by where the next round begins.
    position = Math.max(position, (round + 1) * step * EXTENT_KIB.length)
  }
  await handle.truncate(Math.max(KIB * MIB, position))
  await handle.sync()
  return rounds * EXTENT_KIB.length
}

async function copyByCp(source: string, target: string, durable: boolean): Promise<void> {
  await promisify(execFile)('cp', ['--sparse=always', source, target])
  if (!durable) return
  await syncFile(target)
  await syncDirectory(path.dirname(target))
}

async function byReflink({ runs, say, leaveOut }: Runs): Promise<Row[]> {
  const missing = diskMissing('xfs')
  if (missing !== false) {
    leaveOut('S8', `copies by reflink: ${missing}`)
    return []
  }
  await using disk = await mountDisk('xfs', 2048)
  const sizes = { small: 64, large: 1024 }
  const times: Record<keyof typeof sizes, number[]> = { small: [], large: [] }
  for (const [name, megabytes] of Object.entries(sizes)) {
    await using handle = await open(path.join(disk.path, name), 'wx')
    for (let at = 0; at < megabytes; at += 1) await handle.write(Buffer.alloc(MIB, 1))
    await handle.sync()
  }
  const target = path.join(disk.path, 'target')
  for (let run = 0; run <= runs; run += 1) {
    for (const name of ['small', 'large'] as const)
      times[name].push(
        await copied(target, async () => {
          const { clonedFiles } = await copyPayload(path.join(disk.path, name), target)
          if (clonedFiles !== 1) throw new Error('the copy shares nothing')
        }),
      )
    say(`copy by reflink: run ${run} of ${runs}`)
  }
  return [ratioRow('S8', 'reflink of 1 GiB against 64 MiB (floor), XFS, both synced', 1.2, times.large.slice(1), times.small.slice(1))]
}

/** Milliseconds; the copy is removed afterwards, and the removal is not left to the next one. */
async function copied(target: string, copy: () => Promise<unknown>): Promise<number> {
  const from = performance.now()
  await copy()
  const ms = performance.now() - from
  await rm(target)
  await syncDirectory(path.dirname(target))
  return ms
}
