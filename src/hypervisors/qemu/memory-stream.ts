// Saves memory and devices of a guest that goes on (QEMU's background snapshot): QEMU sends them as a migration stream to a process of ours, which splits it into
// an image's parts. The guest runs again as soon as its devices are kept, and each page is sent before the guest's first write to it. Not for RAM that is a file.

import { rm } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { z } from 'zod'
import { HypemanError, isHypemanError } from '../../api/errors.ts'
import { startSplitting } from '../../files/memory-image/split.ts'
import { openPipe } from '../../platform/pipe.ts'
import { memoryBlock } from './command-line.ts'
import type { QemuMachine } from './machine.ts'
import { firstBase, stateFile } from './memory.ts'
import { QmpError } from './qmp.ts'
import { orAbort } from './sockets.ts'

/** Bytes a second that no disk takes; QEMU's default would hold the stream back. */
const UNLIMITED = 2 ** 40
/** Until a guest that was stopped for its devices must run again, and until QEMU says that all was sent after it was, in milliseconds. */
const ANSWER_LIMIT_MS = 60_000
/** Until the stream of an earlier capture, which was given up, must have ended, in milliseconds. */
const EARLIER_LIMIT_MS = 120_000

/** What QEMU calls the pipe that it sends to. */
const pipeName = 'capture'
/** As much as a pipe may hold without privileges: QEMU sends each page by itself, and should not wait for a reader each time. */
const PIPE_BYTES = 1024 ** 2

const queryMigrate = z.object({ status: z.string().optional(), 'error-desc': z.string().optional() })
type Migration = z.infer<typeof queryMigrate>

export interface StreamOptions {
  readonly ramBytes: number
  /** Gets `memory-1.base` and `device.state`, not synced. */
  readonly target: string
  readonly signal: AbortSignal
  /** Called when the guest runs again. */
  readonly resumed: () => void
}

export interface StreamedMemory {
  readonly bytes: number
  /** When the guest ran again, as `performance.now()` tells it. */
  readonly resumedAt: number
}

/** Everything that can be done before the guest stands still. Disposing it removes what was not saved. */
export interface PreparedStream extends AsyncDisposable {
  /** The machine is paused now. The guest runs again whether this succeeds or not, or is about to. */
  save(): Promise<StreamedMemory>
}

/** For a machine that `streamRefusal` has nothing against, and whose earlier stream has ended. */
export async function prepareStream(qemu: QemuMachine, options: StreamOptions): Promise<PreparedStream> {
  const { ramBytes, target, signal, resumed } = options
  await qemu.command('migrate-set-parameters', { 'max-bandwidth': UNLIMITED }, signal)
  const [memoryFile, state] = [path.join(target, firstBase), path.join(target, stateFile)]
  const pipe = openPipe(PIPE_BYTES)
  const splitting = await startSplitting({ input: pipe.readEnd, block: memoryBlock, ramBytes, memoryFile, stateFile: state }).catch(
    (error: unknown) => {
      pipe[Symbol.dispose]()
      throw error
    },
  )
  let saved = false
  return {
    async save() {
      const runs = await qemu.awaitEvent('RESUME')
      await qemu.command('getfd', { fdname: pipeName }, undefined, pipe.writeEnd)
      // From here on the pipe ends with QEMU's end of it.
      pipe.closeWriteEnd()
      await qemu.command('migrate', { uri: `fd:${pipeName}` })
      try {
        const resumedAt = await orAbort(runs.at, AbortSignal.any([signal, AbortSignal.timeout(ANSWER_LIMIT_MS)]))
        resumed()
        const bytes = await orAbort(splitting.written, signal)
        await completed(qemu)
        saved = true
        return { bytes, resumedAt }
      } catch (error) {
        signal.throwIfAborted()
        // A stream that broke off is told in QEMU's words; what failed here, in its own.
        throw (isHypemanError(error, 'host_unavailable') ? await reasonOf(qemu) : undefined) ?? error
      }
    },
    async [Symbol.asyncDispose]() {
      // A stream that is under way must be read to its end: breaking it off would leave the guest hanging (files/memory-image/split-process.ts).
      pipe[Symbol.dispose]()
      if (saved) return
      // One that has not begun ends when QEMU closes its end, which it has no more if it has begun.
      await qemu.command('closefd', { fdname: pipeName }).catch(() => undefined)
      await Promise.all([memoryFile, state].map((file) => rm(file, { force: true })))
    },
  }
}

/** Why the guest can't go on while it is saved, in QEMU's words (the kernel must tell it of the guest's writes); undefined if it can. */
export async function streamRefusal(qemu: QemuMachine, signal: AbortSignal): Promise<string | undefined> {
  try {
    await qemu.command('migrate-set-capabilities', { capabilities: [{ capability: 'background-snapshot', state: true }] }, signal)
    return undefined
  } catch (error) {
    if (error instanceof QmpError) return error.message
    throw error
  }
}

/** Waits until the stream of a capture that was given up, perhaps by an earlier server, has ended. */
export async function earlierStreamEnded(qemu: QemuMachine, signal: AbortSignal): Promise<void> {
  for (const deadline = performance.now() + EARLIER_LIMIT_MS; ; await delay(20, undefined, { signal })) {
    const { status = 'none' } = await migration(qemu)
    if (!['setup', 'active', 'device', 'cancelling'].includes(status)) return
    if (performance.now() > deadline)
      throw new HypemanError('busy', "the guest's memory is still being saved for an earlier snapshot; try again later")
  }
}

async function completed(qemu: QemuMachine): Promise<void> {
  for (const deadline = performance.now() + ANSWER_LIMIT_MS; ; await delay(1)) {
    const { status, 'error-desc': reason } = await migration(qemu)
    if (status === 'completed') return
    if (status === 'failed' || status === 'cancelled' || performance.now() > deadline)
      throw new HypemanError(
        'host_unavailable',
        `QEMU did not finish the guest's memory (${status ?? 'no status'}): ${reason ?? 'it does not say why'}`,
      )
  }
}

async function reasonOf(qemu: QemuMachine): Promise<HypemanError | undefined> {
  const { status, 'error-desc': reason }: Migration = await migration(qemu).catch(() => ({})) // then the error at hand is the one to tell
  if (status !== 'failed') return undefined
  return new HypemanError('host_unavailable', `QEMU could not save the guest's memory: ${reason ?? 'it does not say why'}`)
}

async function migration(qemu: QemuMachine): Promise<Migration> {
  return queryMigrate.parse(await qemu.command('query-migrate'))
}
