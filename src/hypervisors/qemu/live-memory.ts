// Saves the memory of a guest that goes on. QEMU's background snapshot is what registers memory with the kernel, so that writes to it can be caught; then QEMU waits, and a process of
// ours (files/memory-image/live-copy-process.ts) protects and copies memory in the instant that counts: QEMU alone would send each page by itself. Not for RAM that is a file.

import { rm } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { z } from 'zod'
import { HypemanError } from '../../api/errors.ts'
import { startLiveCopy } from '../../files/memory-image/live-copy.ts'
import { findMapping } from '../../files/memory-image/private-pages.ts'
import { messageOf } from '../../platform/flow.ts'
import { openPipe } from '../../platform/pipe.ts'
import { hasThreadIn } from '../../platform/threads.ts'
import { whyNotTake } from '../../platform/userfaultfd.ts'
import type { QemuMachine } from './machine.ts'
import { anonymous, firstBase } from './memory.ts'
import { QmpError } from './qmp.ts'
import { orAbort } from './sockets.ts'

/** Bytes a second that no disk takes; QEMU's default would hold the stream back. */
const UNLIMITED = 2 ** 40
/** Until the stream of an earlier capture must have run out, in milliseconds. */
const EARLIER_LIMIT_MS = 120_000
/** Until QEMU has registered all memory: it reads every page before, some 90 ms for 2 GiB with one in use. In milliseconds. */
const REGISTER_LIMIT_MS = 60_000
/** It says by an event that it has, and only when asked that it could not: it is asked this often, in milliseconds. */
const LOOK_AGAIN_MS = 20
/** Until QEMU waits to write its first page, in milliseconds. */
const WAITS_LIMIT_MS = 5_000

/** What QEMU calls the pipe that it sends to. */
const pipeName = 'capture'
/** Less than QEMU sends before its first page takes more, and no page fits: there it waits. */
const PIPE_BYTES = 4096

const queryMigrate = z.object({ status: z.string().optional(), 'error-desc': z.string().optional() })
type Migration = z.infer<typeof queryMigrate>

/** The guest can't go on while its memory is saved, for a reason that was not known before; it runs, and its memory can be copied while it stands still. */
export class NotLive extends Error {}

export interface LiveMemoryOptions {
  readonly ramBytes: number
  /** Gets `memory-1.base`, not synced by this. */
  readonly target: string
  readonly signal: AbortSignal
}

/** Disposing it lets the guest write again, lets QEMU's stream run out and removes what was not saved. */
export interface LiveMemory extends AsyncDisposable {
  /** While the guest runs, for which QEMU stops it once. Returns for how long it could not go on, in milliseconds. `NotLive` if QEMU or the kernel can't. */
  begin(): Promise<number>
  /** The guest stands still: its memory is saved as it is now. */
  protect(): Promise<void>
  /** The guest may run. Returns the bytes of memory that were written. */
  save(): Promise<number>
}

/** For a machine that `liveRefusal` has nothing against, and whose earlier stream has run out. */
export async function prepareLive(qemu: QemuMachine, { ramBytes, target, signal }: LiveMemoryOptions): Promise<LiveMemory> {
  await qemu.command('migrate-set-parameters', { 'max-bandwidth': UNLIMITED }, signal)
  const memoryFile = path.join(target, firstBase)
  await using undo = new AsyncDisposableStack()
  undo.defer(() => rm(memoryFile, { force: true }))
  const pipe = undo.use(openPipe(PIPE_BYTES))
  const copy = undo.use(await startLiveCopy(await findMapping(qemu.process.pid, anonymous, ramBytes), memoryFile, pipe.readEnd))
  undo.move()
  let saved = false
  return {
    async begin() {
      await qemu.command('getfd', { fdname: pipeName }, signal, pipe.writeEnd)
      // From here on the pipe ends with QEMU's end of it.
      pipe.closeWriteEnd()
      const [stops, runs] = [await qemu.awaitEvent('STOP'), await qemu.awaitEvent('RESUME')]
      await qemu.command('migrate', { uri: `fd:${pipeName}` })
      try {
        await registered(qemu, runs.at, signal)
        await orAbort(copy.order('take'), signal)
      } catch (error) {
        signal.throwIfAborted()
        throw error instanceof NotLive ? error : new NotLive(messageOf(error), { cause: error })
      }
      const taken = performance.now()
      await waitsInPipe(qemu.process.pid, signal)
      return taken - (await stops.at)
    },
    protect: async () => void (await orAbort(copy.order('protect'), signal)),
    async save() {
      const bytes = await orAbort(copy.order('copy'), signal)
      saved = true
      return bytes
    },
    async [Symbol.asyncDispose]() {
      copy[Symbol.dispose]()
      pipe[Symbol.dispose]()
      if (saved) return
      // One that has not begun ends when QEMU closes its end, which it has no more if it has begun.
      await qemu.command('closefd', { fdname: pipeName }).catch(() => undefined)
      await rm(memoryFile, { force: true })
    },
  }
}

/** Waits until the guest runs again, with its memory registered. If QEMU could not do that the guest is made to run, too. */
async function registered(qemu: QemuMachine, runs: Promise<number>, signal: AbortSignal): Promise<void> {
  const over = new AbortController()
  const limit = AbortSignal.any([signal, over.signal, AbortSignal.timeout(REGISTER_LIMIT_MS)])
  const failed = async (): Promise<never> => {
    for (;;) {
      await delay(LOOK_AGAIN_MS, undefined, { signal: limit })
      const { status, 'error-desc': reason } = await migration(qemu)
      if (status !== 'failed') continue
      await qemu.resume()
      throw new NotLive(`QEMU can't catch what the guest writes: ${reason ?? 'it does not say why'}`)
    }
  }
  try {
    await Promise.race([runs, failed()])
  } finally {
    over.abort()
  }
}

/** Waits until a thread of QEMU waits to write into the pipe, as the kernel tells it (proc(5), wchan): from then on QEMU itself releases no page. */
async function waitsInPipe(pid: number, signal: AbortSignal): Promise<void> {
  for (const deadline = performance.now() + WAITS_LIMIT_MS; performance.now() < deadline; await delay(1, undefined, { signal }))
    if (await hasThreadIn(pid, 'pipe_write')) return
  throw new NotLive('the kernel does not tell that QEMU waits')
}

/** Why the guest can't go on while it is saved; undefined if it can. */
export async function liveRefusal(qemu: QemuMachine, signal: AbortSignal): Promise<string | undefined> {
  const reason = whyNotTake(qemu.process.pid)
  if (reason !== undefined) return reason
  try {
    await qemu.command('migrate-set-capabilities', { capabilities: [{ capability: 'background-snapshot', state: true }] }, signal)
    return undefined
  } catch (error) {
    if (error instanceof QmpError) return error.message
    throw error
  }
}

/** Waits until the stream of an earlier capture, perhaps by an earlier server, has run out. */
export async function earlierStreamEnded(qemu: QemuMachine, signal: AbortSignal): Promise<void> {
  for (const deadline = performance.now() + EARLIER_LIMIT_MS; ; await delay(20, undefined, { signal })) {
    const { status = 'none' } = await migration(qemu)
    if (!['setup', 'active', 'device', 'cancelling'].includes(status)) return
    if (performance.now() > deadline)
      throw new HypemanError('busy', "QEMU is still busy with an earlier snapshot of the guest's memory; try again later")
  }
}

async function migration(qemu: QemuMachine): Promise<Migration> {
  return queryMigrate.parse(await qemu.command('query-migrate'))
}
