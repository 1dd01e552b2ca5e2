// Writes of a process's memory what an earlier image of it has not: its own pages, read while it stood still, are compared with what the earlier image says of each.
// Contents alone decide, so that any diffs will do as the earlier image: such as hold other pages, or are missing, make the new diff larger and never wrong.

import { constants } from 'node:fs'
import { open } from 'node:fs/promises'
import { diskErrors } from '../../platform/disk-error.ts'
import { diffBytes, pagesOf, readDiff, writeDiff } from './diff-file.ts'
import { COPY_BYTES, pageBytes, readAll, readBatches, readFully, type Mapping, type PageRun } from './private-pages.ts'
import { groupsOf, stretchesOf, type Stretch } from './stretches.ts'

/** Most that is kept in memory of what was read, in bytes, and as a share of what is to be had: what a guest has to stand still for is then the reading alone. */
const HELD_BYTES = 256 * 1024 ** 2
const HELD_SHARE = 1 / 8
const PAGES_AT_ONCE = COPY_BYTES / pageBytes
/** Links are not followed, and what is no plain file keeps nobody waiting. */
const READ_PLAINLY = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK

/**
 * Most diffs over a base. Each is one more file to link, seal and read for every fork, and a page that is written again and again is in all of them. With eight, one snapshot in
 * eight takes what was written since the base, the others what was written since the one before.
 */
const MOST_DIFFS = 8
/** Diffs that hold more than this many times what was written since the base hold mostly what was written again since: the next one is over the base alone. */
const MOST_TIMES_WHOLE = 2

/** The pages of a process that are not its base's, read while it stood still. */
export interface CapturedPages {
  readonly ramBytes: number
  readonly runs: readonly PageRun[]
  /** Of a diff that holds them all. */
  readonly bytes: number
  /** One behind the other; undefined if they were too many to hold, and are in `file`, a diff. */
  readonly held: Buffer | undefined
  readonly file: string
}

/** A process that runs on may have so many pages more when it is read, in bytes. */
const MORE_BYTES = 1024 ** 2

/**
 * Makes room for the pages of a process by reading them while it runs. Memory that the system has not given out for long, blocks of a file that are new to its disk, and
 * pages that no cache holds take several times as long as what was copied just now: so all is done once before it counts, and what was read is of no use but for that. Returns
 * memory for them; undefined if they are too many to be held.
 */
export async function makeRoom(
  mapping: Mapping,
  runs: readonly PageRun[],
  file: string,
  signal: AbortSignal | undefined,
  mostHeld: number,
): Promise<Buffer | undefined> {
  const bytes = pagesOf(runs) * pageBytes
  if (bytes <= mostHeld) {
    const held = Buffer.allocUnsafeSlow(bytes + MORE_BYTES)
    await readAll(mapping, runs, held.subarray(0, bytes))
    return held.fill(0, bytes)
  }
  await writeDiff(file, mapping.bytes, runs, batchesOf(mapping, runs, signal), 'over')
  return undefined
}

/**
 * Reads pages out of a process: when it returns, the process may go on. What does not fit into the room that was made, and is more than `mostHeld` bytes, is written to
 * `file` by then, over what it may hold; less is held in memory.
 */
export async function capturePages(
  mapping: Mapping,
  runs: readonly PageRun[],
  file: string,
  {
    signal,
    room,
    mostHeld = mostHeldNow(),
  }: { readonly signal?: AbortSignal; readonly room?: Buffer | undefined; readonly mostHeld?: number } = {},
): Promise<CapturedPages> {
  signal?.throwIfAborted()
  const captured = { ramBytes: mapping.bytes, runs, bytes: diffBytes(runs), file }
  const bytes = pagesOf(runs) * pageBytes
  if (bytes <= Math.max(mostHeld, room?.length ?? 0)) {
    const held = room !== undefined && bytes <= room.length ? room.subarray(0, bytes) : Buffer.allocUnsafeSlow(bytes)
    await readAll(mapping, runs, held)
    return { ...captured, held }
  }
  await writeDiff(file, mapping.bytes, runs, batchesOf(mapping, runs, signal), 'over')
  return { ...captured, held: undefined }
}

/** Bytes of pages that may be held in memory now. */
export function mostHeldNow(): number {
  return Math.min(HELD_BYTES, process.availableMemory() * HELD_SHARE)
}

/** Writes captured pages that are held to their file, as a diff; others are there. */
export async function storeHeld({ held, file, ramBytes, runs }: CapturedPages): Promise<void> {
  if (held !== undefined) await writeDiff(file, ramBytes, runs, [held], 'over')
}

/** What the pages hold, in batches: the next one is read while one is written. */
function batchesOf(mapping: Mapping, runs: readonly PageRun[], signal?: AbortSignal): Iterable<Buffer> {
  const next = buffersInTurn()
  return readBatches(mapping, runs, (length) => next().subarray(0, length)).map(({ data }) => {
    signal?.throwIfAborted()
    return data
  })
}

/** Two buffers for batches, one of which is written while the other is filled. */
function buffersInTurn(): () => Buffer {
  let [one, other] = [Buffer.allocUnsafeSlow(COPY_BYTES), Buffer.allocUnsafeSlow(COPY_BYTES)]
  return () => {
    ;[one, other] = [other, one]
    return one
  }
}

/** What a process's memory was when it was last saved. */
export interface EarlierImage {
  /** The file that the process maps. */
  readonly base: string
  /** Diffs over it, each over those before it. One that can't be read is left out. */
  readonly diffs: readonly string[]
}

export interface SavedChanges {
  /** Those of the earlier diffs that the new one lies over. */
  readonly over: readonly string[]
  /** Of the new diff; 0 if nothing changed, so that there is none. */
  readonly bytes: number
}

/** Writes a diff that makes, with what it lies over, the captured memory. The process may run. */
export async function saveChanges(
  captured: CapturedPages,
  earlier: EarlierImage,
  file: string,
  signal?: AbortSignal,
): Promise<SavedChanges> {
  await using opened = new AsyncDisposableStack()
  const base = opened.use(await openBase(earlier.base))
  const whole =
    captured.held === undefined ? opened.use(await openDiff(captured.file, captured.ramBytes)) : heldPages(captured.runs, captured.held)
  const chain: DiffPages[] = []
  for (const diff of earlier.diffs) {
    const pages = await openDiff(diff, captured.ramBytes).catch(() => undefined) // then the new diff has its pages
    if (pages !== undefined) chain.push(opened.use(pages))
  }
  const { over, changed } = await compare(whole, base, isTooLong(chain, captured) ? [] : chain, signal)
  if (changed.length === 0) return { over, bytes: 0 }
  return { over, bytes: await writeDiff(file, captured.ramBytes, changed, contentsOf(changed, whole, base, signal)) }
}

function isTooLong(chain: readonly DiffPages[], whole: CapturedPages): boolean {
  const bytes = chain.reduce((sum, { runs }) => sum + diffBytes(runs), 0)
  return chain.length >= MOST_DIFFS || bytes > MOST_TIMES_WHOLE * whole.bytes
}

/** Pages of some runs, by how many of them come before. */
interface Pages {
  readonly runs: readonly PageRun[]
  read(at: number, into: Buffer): Promise<void>
}

interface DiffPages extends Pages, AsyncDisposable {
  readonly file: string
}

/** All pages; those before a page are as many as its number. */
async function openBase(file: string): Promise<Pages & AsyncDisposable> {
  const handle = await open(file, 'r')
  return {
    runs: [],
    read: (at, into) => diskErrors(file, () => readFully(handle, into, at * pageBytes)),
    [Symbol.asyncDispose]: () => handle.close(),
  }
}

async function openDiff(file: string, ramBytes: number): Promise<DiffPages> {
  const handle = await open(file, READ_PLAINLY)
  try {
    const { runs, dataOffset } = await readDiff(handle, file, ramBytes)
    return {
      file,
      runs,
      read: (at, into) => diskErrors(file, () => readFully(handle, into, dataOffset + at * pageBytes)),
      [Symbol.asyncDispose]: () => handle.close(),
    }
  } catch (error) {
    await handle.close()
    throw error
  }
}

function heldPages(runs: readonly PageRun[], held: Buffer): Pages {
  return {
    runs,
    read(at, into) {
      held.copy(into, 0, at * pageBytes)
      return Promise.resolve()
    },
  }
}

interface Comparison {
  readonly over: readonly string[]
  readonly changed: readonly PageRun[]
}

/** A diff that can't be read to its end is none to lie over: then all that is not the base's has changed. */
async function compare(whole: Pages, base: Pages, chain: readonly DiffPages[], signal?: AbortSignal): Promise<Comparison> {
  try {
    return { over: chain.map(({ file }) => file), changed: await changedRuns(whole, base, chain, signal) }
  } catch (error) {
    if (chain.length === 0 || signal?.aborted === true) throw error
    return { over: [], changed: await changedRuns(whole, base, [], signal) }
  }
}

/** Runs of the pages that are not what base and chain say. A page that is in the chain and no longer the process's own is the base's again. */
async function changedRuns(whole: Pages, base: Pages, chain: readonly Pages[], signal?: AbortSignal): Promise<PageRun[]> {
  const changed: { first: number; count: number }[] = []
  const [now, before] = [Buffer.allocUnsafeSlow(COPY_BYTES), Buffer.allocUnsafeSlow(COPY_BYTES)]
  const lists = [whole, ...chain].map(({ runs }) => runs)
  for (const group of groupsOf(stretchesOf(lists, PAGES_AT_ONCE), PAGES_AT_ONCE)) {
    signal?.throwIfAborted()
    await readLast([base, whole], group, now)
    await readLast([base, undefined, ...chain], group, before)
    let at = 0
    for (const { first, count } of group)
      for (let page = first; page < first + count; page += 1) {
        const isSame = now.compare(before, at, at + pageBytes, at, at + pageBytes) === 0
        at += pageBytes
        if (isSame) continue
        const last = changed.at(-1)
        if (last !== undefined && last.first + last.count === page) last.count += 1
        else changed.push({ first: page, count: 1 })
      }
  }
  return changed
}

/** What the changed pages hold now, in batches. */
async function* contentsOf(changed: readonly PageRun[], whole: Pages, base: Pages, signal?: AbortSignal): AsyncGenerator<Buffer> {
  const next = buffersInTurn()
  const stretches = stretchesOf([whole.runs, changed], PAGES_AT_ONCE).filter(({ at }) => at[1] !== undefined)
  for (const group of groupsOf(stretches, PAGES_AT_ONCE)) {
    signal?.throwIfAborted()
    const into = next().subarray(0, pagesOf(group) * pageBytes)
    await readLast([base, whole], group, into)
    yield into
  }
}

/** Reads each stretch out of the last of the layers that has it. The first layer, the base, has all; the others are the stretches' lists, but for those left out. */
async function readLast(
  [base, ...layers]: readonly [Pages, ...(readonly (Pages | undefined)[])],
  stretches: readonly Stretch[],
  into: Buffer,
): Promise<void> {
  let position = 0
  const reads = stretches.map(({ first, count, at }) => {
    const piece = into.subarray(position, (position += count * pageBytes))
    const layer = layers.findLastIndex((pages, index) => pages !== undefined && at[index] !== undefined)
    return (layers[layer] ?? base).read(at[layer] ?? first, piece)
  })
  await Promise.all(reads)
}
