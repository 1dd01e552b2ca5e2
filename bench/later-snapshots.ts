// S3, S5 and snapshot: snapshots of a guest that runs from a snapshot. How long it stands still, how long the call takes, what it costs on disk.

import { vmmOf } from '../tests/support/vmm.ts'
import { diskUse, newBytes } from './disk-use.ts'
import { forkByHand, type HandRun } from './floor.ts'
import { mountMemory, writeRandom } from './guest.ts'
import { against, limitRow, limitsRow, timed, type Bench, type Row } from './measure.ts'
import { privateMib } from './private-memory.ts'
import { sourceOf, type Source } from './source.ts'

const MIB = 1024 ** 2
const PAUSE_MS = 25
const PAUSE_MS_PER_MIB = 1
const CALL_LIMIT_MS = 1_000
/** What a guest writes between snapshots. */
const WRITTEN_FOR_PAUSE_MIB = 64
const WRITTEN_FOR_DISK_MIB = 16
const DISK_SHARE = 1.1
const DISK_MORE_MIB = 0.5

export async function measureLaterSnapshots(bench: Bench): Promise<Row[]> {
  await using source = await sourceOf(bench, 'snapshot', '2GB')
  await using hand = await forkByHand(source.layout, source.spec, source.payload)
  return [
    ...(bench.wants('S3') || bench.wants('snapshot') ? await atRest(bench, source, hand) : []),
    ...(bench.wants('S3') ? await afterWrites(bench, source, hand) : []),
    ...(bench.wants('S5') ? await onDisk(bench, source) : []),
  ]
}

interface Taken {
  readonly pausedMs: number
  readonly callMs: number
  /** Private pages of the VMM before the snapshot, less those before the last one. */
  readonly writtenMib: number
}

/** A fork whose snapshots are taken, and removed at once. */
class Subject implements AsyncDisposable {
  readonly id: string
  readonly #bench: Bench
  #privateMib = 0

  private constructor(bench: Bench, id: string) {
    this.#bench = bench
    this.id = id
  }

  static async fork(bench: Bench, { snapshotId }: Source): Promise<Subject> {
    return new Subject(bench, (await bench.server.client.snapshots.fork(snapshotId, { name: 'snapshotted' })).id)
  }

  async take(): Promise<Taken> {
    const { server } = this.#bench
    const before = await privateMib(vmmOf(server, this.id))
    const writtenMib = before - this.#privateMib
    this.#privateMib = before
    let taken = { id: '', paused_ms: Number.NaN }
    const callMs = await timed(async () => {
      taken = { paused_ms: Number.NaN, ...(await server.client.instances.snapshots.create(this.id, { kind: 'Standby' })) }
    })
    await server.client.snapshots.delete(taken.id)
    return { pausedMs: taken.paused_ms, callMs, writtenMib }
  }

  /** Bytes that a snapshot takes on disk, in MiB. */
  async takeOnDisk(): Promise<number> {
    const { server } = this.#bench
    const before = await diskUse(server.dataDirectory)
    const { id } = await server.client.instances.snapshots.create(this.id, { kind: 'Standby' })
    const after = await diskUse(server.dataDirectory)
    await server.client.snapshots.delete(id)
    return newBytes(before, after) / MIB
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#bench.server.client.instances.delete(this.id)
  }
}

/** Of a guest that does nothing, one after the other. The floor is the pause alone, by hand. */
async function atRest(bench: Bench, source: Source, hand: HandRun): Promise<Row[]> {
  await using subject = await Subject.fork(bench, source)
  const [all, floors]: [Taken[], number[]] = [[], []]
  for (let run = 0; run < bench.runs; run += 1) {
    floors.push(await hand.pauseOnce())
    all.push(await subject.take())
    bench.say(`snapshot: run ${run + 1} of ${bench.runs}`)
  }
  const calls = all.map(({ callMs }) => callMs)
  return [
    pauseRow('paused by a later snapshot, 2GB at rest', all, floors),
    against(limitRow('snapshot', 'the whole snapshot call, 2GB at rest', 'ms', CALL_LIMIT_MS, calls), floors),
  ]
}

/** Of a guest that wrote, by a fork for each run: its first snapshot, and one more after it has written as much again elsewhere. */
async function afterWrites(bench: Bench, source: Source, hand: HandRun): Promise<Row[]> {
  const [first, second, floors]: [Taken[], Taken[], number[]] = [[], [], []]
  for (let run = 0; run < bench.runs; run += 1) {
    await using subject = await Subject.fork(bench, source)
    await mountMemory(bench.server, subject.id, 2 * WRITTEN_FOR_PAUSE_MIB)
    for (const [index, list] of [first, second].entries()) {
      await writeRandom(bench.server, subject.id, WRITTEN_FOR_PAUSE_MIB, `file-${index}`)
      floors.push(await hand.pauseOnce())
      list.push(await subject.take())
    }
    bench.say(`snapshot after ${WRITTEN_FOR_PAUSE_MIB} MiB: run ${run + 1} of ${bench.runs}`)
  }
  return [
    pauseRow(`paused, ${WRITTEN_FOR_PAUSE_MIB} MiB written`, first, floors),
    pauseRow(`paused by the next, ${WRITTEN_FOR_PAUSE_MIB} MiB more written`, second, floors),
  ]
}

/** Each run's target goes by what its guest wrote. */
function pauseRow(what: string, taken: readonly Taken[], floors: readonly number[]): Row {
  const limits = taken.map(({ writtenMib }) => PAUSE_MS + PAUSE_MS_PER_MIB * writtenMib)
  const paused = taken.map(({ pausedMs }) => pausedMs)
  const mean = taken.reduce((sum, { writtenMib }) => sum + writtenMib, 0) / taken.length
  return against(limitsRow('S3', what, 'ms', limits, paused, `≤ ${PAUSE_MS} ms + 1 ms/MiB (${mean.toFixed(1)} MiB)`), floors)
}

/** The floor is what the guest was told to write; what its kernel writes besides counts against us. */
async function onDisk(bench: Bench, source: Source): Promise<Row[]> {
  const [first, second]: [number[], number[]] = [[], []]
  for (let run = 0; run < bench.runs; run += 1) {
    await using subject = await Subject.fork(bench, source)
    await mountMemory(bench.server, subject.id, 2 * WRITTEN_FOR_DISK_MIB)
    // What it wrote to become a fork and to mount that is in this one.
    const { client } = bench.server
    const { id: before } = await client.instances.snapshots.create(subject.id, { kind: 'Standby' })
    for (const [index, list] of [first, second].entries()) {
      await writeRandom(bench.server, subject.id, WRITTEN_FOR_DISK_MIB, `file-${index}`)
      list.push(await subject.takeOnDisk())
    }
    await client.snapshots.delete(before)
    bench.say(`snapshot on disk: run ${run + 1} of ${bench.runs}`)
  }
  const limit = DISK_SHARE * WRITTEN_FOR_DISK_MIB + DISK_MORE_MIB
  const row = (what: string, values: readonly number[]): Row =>
    against(limitRow('S5', what, 'MiB', limit, values, `≤ ${DISK_SHARE} × written + 512 KiB`), [WRITTEN_FOR_DISK_MIB])
  return [
    row(`on disk, ${WRITTEN_FOR_DISK_MIB} MiB written`, first),
    row(`the next on disk, ${WRITTEN_FOR_DISK_MIB} MiB more written`, second),
  ]
}
