// A process that copies the memory of a guest which goes on: node live-copy-process.ts PID ADDRESS RAM_BYTES FILE, with the VMM's migration stream, a pipe, as descriptor 3.
// The VMM has registered its memory with a userfaultfd and waits to write into the pipe. This process takes the userfaultfd, protects memory in the instant that counts, and copies it:
// a page that the guest wants to write to comes first, and is released when it is copied. Nothing is read from the pipe before that, so that the VMM itself neither copies nor releases anything.
// It is a process of its own since the guest must go on without the server: when standard input ends everything is released, and the stream is read to its end (hypervisors/qemu/README.md).
// Each order is a line of standard input, each answer a line of JSON; the first one says that the file is there.

import { readSync } from 'node:fs'
import { open } from 'node:fs/promises'
import os from 'node:os'
import { HypemanError, isHypemanError } from '../../api/errors.ts'
import { diskErrors } from '../../platform/disk-error.ts'
import { messageOf } from '../../platform/flow.ts'
import { resizePipe } from '../../platform/pipe.ts'
import { pollReadable } from '../../platform/poll.ts'
import { takeTraps, type WriteTraps } from '../../platform/userfaultfd.ts'
import type { LiveCopyAnswer, LiveCopyOrder } from './live-copy.ts'
import { privatePages, type Mapping } from './private-pages.ts'
import { PAGES_AT_ONCE, ProtectedCopy } from './protected-copy.ts'

const ORDERS = 0
const STREAM = 3
/** What the pipe holds when the stream runs out, and is read in one call. */
const STREAM_BYTES = 1024 ** 2
/** After a read of less than a quarter of that there is a rest, so that a writer of single pages does not have to wake a reader for each. */
const REST_MS = 0.5
const LOWEST_PRIORITY = 19

const [pid = '', address = '', ramBytes = '', file = ''] = process.argv.slice(2)
const ram: Mapping = { pid: Number(pid), address: Number(address), bytes: Number(ramBytes), file: '', inode: '' }

// Nobody may be left to read what is printed.
process.stdout.on('error', () => undefined)

let traps: WriteTraps | undefined
try {
  await diskErrors("the guest's memory", work)
} catch (error) {
  say({ ok: false, message: messageOf(error), code: isHypemanError(error) ? error.code : 'internal' })
} finally {
  traps?.releaseAll()
}
letStreamRunOut()

async function work(): Promise<void> {
  await using target = await open(file, 'wx', 0o600)
  await target.truncate(ram.bytes)
  say({ ok: true })
  if (nextOrder() !== 'take') return
  traps = takeTraps(ram.pid)
  if (traps === undefined) throw new HypemanError('host_unavailable', 'QEMU does not catch what its guest writes')
  // The guest's own memory first: it can't go on without it.
  traps.release(ram)
  traps.releaseAll()
  say({ ok: true })
  if (nextOrder() !== 'protect') return
  traps.protect(ram)
  const copy = new ProtectedCopy(ram, traps, target.fd)
  say({ ok: true })
  // The VMM itself may want to write, before the guest does.
  if (nextOrder(copy) !== 'copy') return
  const runs = await privatePages(ram)
  for (const { first, count } of runs)
    for (let done = 0; done < count; done += PAGES_AT_ONCE) {
      copy.take(first + done, Math.min(PAGES_AT_ONCE, count - done))
      copy.serve()
      // Nobody waits for it any more.
      if (hasEnded()) return
    }
  traps.releaseAll()
  await copy.synced()
  say({ ok: true, bytes: copy.bytes })
}

/** The next order; undefined when there will be none. Meanwhile whoever wants to write is served. */
function nextOrder(copy?: ProtectedCopy): LiveCopyOrder | undefined {
  const trapped = copy === undefined || traps === undefined ? [] : [traps.fd]
  for (;;) {
    const [ordered, waits] = pollReadable([ORDERS, ...trapped], -1)
    if (waits === true) copy?.serve()
    if (ordered !== true) continue
    const buffer = Buffer.alloc(64)
    const text = buffer.toString('latin1', 0, readSync(ORDERS, buffer)).trim()
    // One comes when the one before it is answered.
    return text === 'take' || text === 'protect' || text === 'copy' ? text : undefined
  }
}

function hasEnded(): boolean {
  return pollReadable([ORDERS], 0)[0] === true
}

function say(answer: LiveCopyAnswer): void {
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}

/** The VMM's own way to the end of a capture, without which it would not make another one. */
function letStreamRunOut(): void {
  os.setPriority(LOWEST_PRIORITY)
  resizePipe(STREAM, STREAM_BYTES)
  const buffer = Buffer.allocUnsafeSlow(STREAM_BYTES)
  const clock = new Int32Array(new SharedArrayBuffer(4))
  for (let length: number; (length = readSync(STREAM, buffer)) > 0;) if (length < STREAM_BYTES / 4) Atomics.wait(clock, 0, 0, REST_MS)
}
