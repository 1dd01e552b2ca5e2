// Flow: compress the memory of an instance in standby, in the background. Its files are read and never changed, and nobody waits: whoever needs the memory, or gives
// it up, ends this first. The change itself is made under the instance's lock, by one writing of its record, which holds the seals: a crash at any point leaves either
// of the two forms whole.

import path from 'node:path'
import {
  compareIn,
  compressInto,
  digestsIn,
  placeCompressed,
  removeUnsealedCompressed,
  sealedFile,
  sealsOfCompressed,
} from '../files/compressed-files.ts'
import { seeFile } from '../files/identity.ts'
import type { FileSeal } from '../files/seals.ts'
import { createStaged, removeFile, syncDirectory } from '../files/stage.ts'
import { messageOf, step } from '../platform/flow.ts'
import { flowOn, holdInstance, type InstanceContext } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import { driverOf } from './machine.ts'
import type { InstanceRecord } from './record.ts'
import type { StandbyCompression } from './snapshot-policy.ts'

/** How long the change waits for an operation on the instance, which ends all of it if it touches the memory, in milliseconds. */
const COMMIT_LOCK_WAIT_MS = 600_000
/** What failed (a full disk) is tried again after this time, in milliseconds. */
const RETRY_MS = 600_000
/** What others share is looked at again after this time, in milliseconds. */
const LOOK_AGAIN_MS = 5_000

/** An instance whose memory lies there, sealed, and is to be compressed. */
interface Asleep {
  readonly savedMemory: readonly FileSeal[]
  readonly wanted: StandbyCompression
}

/** What has been seen of the compression of one standby. */
export interface CompressionSeen {
  /** The seals of the memory that it is about: with others it says nothing. */
  readonly of: InstanceRecord['savedMemory']
  /** Why it failed last. */
  readonly error?: string
  /** Memory files that others name too: compressed, they would take room twice. */
  readonly shared: readonly { readonly name: string; readonly others: number }[]
  readonly notBeforeMs: number
}

export interface CompressionWork {
  readonly cancel: AbortController
  /** Never rejects. */
  readonly done: Promise<void>
}

function asleepOf(entry: InstanceEntry): Asleep | undefined {
  const { record } = entry
  const { savedMemory, standbyCompression: wanted } = record
  if (wanted === null || savedMemory === null || !entry.holdsMemory || entry.machine !== undefined || record.process !== null)
    return undefined
  return entry.removing ? undefined : { savedMemory, wanted }
}

interface Look {
  /** Memory files that can be compressed now. */
  readonly ready: readonly string[]
  readonly shared: CompressionSeen['shared']
  /** Memory files that lie there compressed, and could not be removed. */
  readonly left: readonly string[]
}

/** Looks without waiting, so that nothing changes in between. */
function lookAt(context: InstanceContext, entry: InstanceEntry, { savedMemory, wanted }: Asleep): Look {
  const [driver, directory] = [driverOf(context, entry.record), context.layout.instance(entry.id)]
  const [ready, shared]: [string[], { name: string; others: number }[]] = [[], []]
  for (const { name } of savedMemory) {
    if (driver.partOf(name) !== 'memory' || wanted.kept.includes(name)) continue
    const seen = seeFile(path.join(directory, name))
    if (seen === undefined || seen.allocatedBytes === 0) continue // missing is for a check to tell; holes take no room
    if (seen.links === 1) ready.push(name)
    else shared.push({ name, others: seen.links - 1 })
  }
  const left = wanted.files.flatMap(({ name }) => (seeFile(path.join(directory, name)) === undefined ? [] : [name]))
  return { ready, shared, left }
}

/** Begins to compress, if there is anything to compress now and one may begin. It goes on in the background (`entry.compressing`). Never throws: what fails is told by the instance. */
export function compressIfDue(context: InstanceContext, entry: InstanceEntry, nowMs: number): void {
  const asleep = asleepOf(entry)
  if (asleep === undefined || entry.compressing !== undefined || context.compressions.isFull) return
  // Whoever has the lock may be about to use the memory.
  if (nowMs < Date.parse(asleep.wanted.notBefore) || context.locks.isHeld(entry.id)) return
  const { compressionSeen: seen } = entry
  if (seen?.of === asleep.savedMemory && nowMs < seen.notBeforeMs) return
  const failed = (error: unknown, shared: CompressionSeen['shared']): void => {
    entry.compressionSeen = { of: entry.record.savedMemory, shared, error: messageOf(error), notBeforeMs: Date.now() + RETRY_MS }
    context.log.warn({ instance: entry.id, error: messageOf(error) }, 'the memory of an instance in standby could not be compressed')
  }
  let look: Look
  try {
    look = lookAt(context, entry, asleep)
  } catch (error) {
    return failed(error, [])
  }
  const { ready, shared, left } = look
  const isDone = ready.length + left.length + shared.length === 0
  const notBeforeMs = isDone ? Number.POSITIVE_INFINITY : nowMs + LOOK_AGAIN_MS
  entry.compressionSeen = { of: asleep.savedMemory, shared, notBeforeMs }
  if (ready.length + left.length === 0) return
  const slot = context.compressions.take()
  if (slot === undefined) return
  const cancel = new AbortController()
  const signal = AbortSignal.any([cancel.signal, context.stopping])
  const done = compress(context, entry, asleep, ready, signal)
    .catch((error: unknown) => {
      if (!signal.aborted) failed(error, shared)
    })
    .finally(() => {
      slot[Symbol.dispose]()
      entry.compressing = undefined
    })
  entry.compressing = { cancel, done }
}

/** Before the memory is used or given up, by a flow that holds the instance: ends what compresses it, and waits until it has ended. */
export async function stopCompressing(entry: InstanceEntry): Promise<void> {
  const { compressing: work } = entry
  work?.cancel.abort(new Error('the memory is needed, or given up'))
  await work?.done
}

async function compress(
  context: InstanceContext,
  entry: InstanceEntry,
  asleep: Asleep,
  names: readonly string[],
  signal: AbortSignal,
): Promise<void> {
  const { digests, layout } = context
  const { savedMemory, wanted } = asleep
  const directory = layout.instance(entry.id)
  using flow = flowOn(context, entry.id, 'instance.compress', { signal })
  await using staged = await createStaged(layout, `standby-${entry.id}`)
  const raw = await step(flow, 'compress', async () => {
    const files = names.map((name) => sealedFile(directory, savedMemory, name))
    await compressInto(staged.path, files, wanted, flow.signal)
    return files
  })
  const compared = await step(flow, 'compare', () => compareIn(staged.path, raw, wanted, digests, flow.signal))
  const smaller = compared.filter(({ compressedBytes, allocatedBytes }) => compressedBytes < allocatedBytes)
  const made = await step(flow, 'seal', () => digestsIn(staged.path, smaller, wanted, digests, flow.signal))
  using _lock = await holdInstance(context, entry, COMMIT_LOCK_WAIT_MS, flow.signal)
  const present = asleepOf(entry)
  // Another memory, or none any more: what was made is of no use.
  if (context.store.byId(entry.id) !== entry || present?.savedMemory !== savedMemory || present.wanted !== wanted) return
  await step(flow, 'commit', async () => {
    // What somebody names by now stays as it is.
    const { ready } = lookAt(context, entry, asleep)
    const taken = smaller.filter(({ name }) => ready.includes(name))
    const kept = [...wanted.kept, ...compared.filter((one) => !smaller.includes(one)).map(({ name }) => name)]
    await using undo = new AsyncDisposableStack()
    undo.defer(() => removeUnsealedCompressed(directory, savedMemory))
    await removeUnsealedCompressed(directory, savedMemory)
    await placeCompressed(staged.path, directory, taken, wanted)
    const others = savedMemory.filter(({ name }) => !taken.some((one) => one.name === name))
    await context.store.update(entry, {
      savedMemory: [...others, ...sealsOfCompressed(directory, taken, wanted, made)],
      standbyCompression: { ...wanted, files: [...wanted.files, ...taken], kept },
    })
    undo.move()
  })
  await step(flow, 'free', () => removeReplaced(context, directory, entry.record.standbyCompression))
}

/** Removes memory files that the seals name in their compressed form alone. */
export async function removeReplaced(
  { digests }: Pick<InstanceContext, 'digests'>,
  directory: string,
  compression: StandbyCompression | null,
): Promise<void> {
  let removed = 0
  for (const { name } of compression?.files ?? []) {
    const file = path.join(directory, name)
    const seen = seeFile(file)
    if (await removeFile(file)) removed += 1
    if (seen?.links === 1) digests.forget(seen)
  }
  if (removed > 0) await syncDirectory(directory)
}
