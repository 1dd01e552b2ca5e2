// Verifies a snapshot: reads every byte of it from the disk and compares with the digests. The only check that finds what rotted without being written to.
// Holds no lock: a snapshot that is deleted meanwhile ends it.

import path from 'node:path'
import { HypemanError, isHypemanError } from '../api/errors.ts'
import type { SnapshotVerification, VerifiedFile, VerifyEvent } from '../api/schemas/verification.ts'
import { identityKey, seeFile, type SeenFile } from '../files/identity.ts'
import { snapshotFiles } from '../files/layout.ts'
import { lookAt, sealOf, wasCopied, writtenBeforeDigest, type FileSeal } from '../files/seals.ts'
import type { SnapshotContext } from './context.ts'
import { messageOf } from '../platform/flow.ts'
import { replaced } from './check.ts'
import { readCompression } from './compression-record.ts'
import { payloadFiles, readSeals, SealsProblem, strangers } from './seals.ts'

/** Progress of each file, then the result. Rejects only if the snapshot is gone, or the signal aborts. */
export async function* verifySnapshot(context: SnapshotContext, id: string, caller: AbortSignal): AsyncGenerator<VerifyEvent> {
  const started = performance.now()
  using there = context.keeper.whileThere(id)
  const signal = AbortSignal.any([caller, there.signal])
  const directory = context.instances.layout.snapshot(id)
  const { seals, files } = sealsOf(context, directory, id)
  const seen = seals.map((seal) => seeFile(path.join(directory, seal.name)))
  const totalBytes = seen.reduce((sum, one) => sum + dataBytes(one), 0)
  const changed: FileSeal[] = []
  let doneBytes = 0
  for (const [index, seal] of seals.entries()) {
    const reading = followed((tell) => readSealed(context, id, seal, seen[index], signal, tell))
    let step = await reading.next()
    for (; step.done !== true; step = await reading.next())
      yield progressOf(id, seal.name, Math.min(doneBytes + step.value, totalBytes), totalBytes)
    const { file, changed: newSeal } = step.value
    doneBytes += dataBytes(seen[index])
    files.push(file)
    if (newSeal !== undefined) changed.push(newSeal)
    yield progressOf(id, seal.name, doneBytes, totalBytes)
  }
  signal.throwIfAborted()
  if (changed.length > 0) await context.keeper.update(id, (present) => replaced(present, changed))
  yield { type: 'result', ...resultOf(id, files, performance.now() - started) }
}

/** Verifies all snapshots one after another, those first whose record can't be read; one that is deleted meanwhile is left out. */
export async function* verifyAll(context: SnapshotContext, signal: AbortSignal): AsyncGenerator<VerifyEvent> {
  const { store } = context
  for (const id of [...store.unreadable.keys(), ...store.list().map((record) => record.id)])
    try {
      if (store.unreadable.has(id) || store.byId(id) !== undefined) yield* verifySnapshot(context, id, signal)
    } catch (error) {
      if (!isHypemanError(error, 'not_found')) throw error
    }
}

/** The seals, and what is known of the snapshot's files without them. */
function sealsOf(
  context: SnapshotContext,
  directory: string,
  id: string,
): { readonly seals: readonly FileSeal[]; readonly files: VerifiedFile[] } {
  const names = payloadFiles(directory)
  try {
    const seals = readSeals(directory, id)
    const files = strangers(seals, names).map(({ name, kind, what }) => verified(name, kind, { message: what }))
    return { seals, files: [verified(snapshotFiles.seals, 'ok'), ...compressionFile(directory, id), ...files] }
  } catch (error) {
    ensureThere(context, id)
    if (!(error instanceof SealsProblem)) throw error
    const unsealed = [snapshotFiles.record, ...names].map((name) =>
      verified(name, 'not_hashed', { message: 'there is no digest to compare it with' }),
    )
    return { seals: [], files: [verified(error.name, error.kind, { message: error.what }), ...unsealed] }
  }
}

/** The record of what is compressed, which has a checksum of its own; nothing if there is none. */
function compressionFile(directory: string, id: string): VerifiedFile[] {
  try {
    return readCompression(directory, id) === undefined ? [] : [verified(snapshotFiles.compression, 'ok')]
  } catch (error) {
    return [verified(snapshotFiles.compression, 'bad', { message: messageOf(error) })]
  }
}

function ensureThere({ store }: SnapshotContext, id: string): void {
  if (store.byId(id) === undefined && !store.unreadable.has(id)) throw new HypemanError('not_found', `the snapshot ${id} is gone`)
}

interface ReadFile {
  readonly file: VerifiedFile
  /** Its seal, if something new is known of it. */
  readonly changed?: FileSeal
}

/** Yields what a reading tells of its progress, the newest if there was more than one; returns its result. */
async function* followed<Result>(start: (tell: (readBytes: number) => void) => Promise<Result>): AsyncGenerator<number, Result> {
  let told = Promise.withResolvers<number>()
  const result = start((readBytes) => {
    told.resolve(readBytes)
    told = Promise.withResolvers()
  })
  const ended = result.then(
    () => undefined,
    () => undefined, // whoever awaits the result hears of it
  )
  for (;;) {
    const readBytes = await Promise.race([told.promise, ended])
    if (readBytes === undefined) return result
    yield readBytes
  }
}

async function readSealed(
  context: SnapshotContext,
  id: string,
  seal: FileSeal,
  seen: SeenFile | undefined,
  signal: AbortSignal,
  onProgress: (readBytes: number) => void,
): Promise<ReadFile> {
  const { digests, layout } = context.instances
  const { name } = seal
  const surface = lookAt(seal, seen)
  if (surface !== undefined || seen === undefined) return { file: verified(name, surface?.kind ?? 'missing', { message: surface?.what }) }
  let digested
  try {
    digested = await digests.read(path.join(layout.snapshot(id), name), { urgent: true, fromDisk: true, signal, onProgress })
  } catch (error) {
    signal.throwIfAborted()
    ensureThere(context, id)
    return {
      file: verified(name, 'bad', {
        size_bytes: seen.sizeBytes,
        message: `can not be read: ${error instanceof Error ? error.message : String(error)}`,
      }),
    }
  }
  const { digest, identity, readBytes } = digested
  const sizes = { size_bytes: identity.sizeBytes, read_bytes: readBytes }
  const same = identityKey(identity) === identityKey(seal)
  if (seal.digest === null) {
    if (!same && !wasCopied(seal, identity)) return { file: verified(name, 'bad', { ...sizes, message: writtenBeforeDigest }) }
    digests.remember(identity, digest)
    const message = 'its digest was taken just now: there was none to compare it with'
    return { file: verified(name, 'not_hashed', { ...sizes, message }), changed: sealOf(name, identity, digest) }
  }
  const good = digest === seal.digest
  digests.setDamaged(identity, !good)
  if (!good) {
    const message = 'has other contents than when it was saved'
    return { file: verified(name, 'bad', { ...sizes, message }), changed: { ...seal, damagedAt: new Date().toISOString() } }
  }
  return { file: verified(name, 'ok', sizes), ...(same && seal.damagedAt === null ? {} : { changed: sealOf(name, identity, digest) }) }
}

function verified(
  name: string,
  status: VerifiedFile['status'],
  rest: { readonly message?: string | undefined; readonly size_bytes?: number; readonly read_bytes?: number } = {},
): VerifiedFile {
  const { message, ...sizes } = rest
  return { name, status, ...sizes, ...(message === undefined ? {} : { message }) }
}

/** An estimate: what the file takes on disk. */
function dataBytes(seen: SeenFile | undefined): number {
  return seen === undefined ? 0 : Math.min(seen.allocatedBytes, seen.sizeBytes)
}

function progressOf(id: string, file: string, done: number, total: number): VerifyEvent {
  return { type: 'progress', snapshot_id: id, file, done_bytes: done, total_bytes: total }
}

function resultOf(id: string, files: readonly VerifiedFile[], ms: number): SnapshotVerification {
  const bad = files.some(({ status }) => status === 'bad' || status === 'missing')
  const status = bad ? 'bad' : files.some((file) => file.status === 'not_hashed') ? 'incomplete' : 'ok'
  const readBytes = files.reduce((sum, file) => sum + (file.read_bytes ?? 0), 0)
  return { snapshot_id: id, status, ms: Math.round(ms), read_bytes: readBytes, files: [...files] }
}
