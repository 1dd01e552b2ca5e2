// A process that takes one migration stream from standard input, a pipe, and splits it: node split-process.ts BLOCK RAM_BYTES MEMORY_FILE STATE_FILE.
// It is a process of its own, since a stream that breaks off leaves the guest hanging for good: QEMU (7.2, migration.c) then stops to answer the write faults of a
// background snapshot. So it outlives the server, and reads the stream to its end whatever happens. The files are there when it
// prints `reading`; last comes one line of JSON.

import { fstatSync, readSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { isHypemanError } from '../../api/errors.ts'
import { messageOf } from '../../platform/flow.ts'
import { splitMigrationStream } from './migration-stream.ts'
import type { SplitResult } from './split.ts'

const INPUT = 0
/** Most that is read at once: what a pipe holds. */
const READ_BYTES = 1024 ** 2
/** Read into one after the other; each lives for as long as a page of it is not written. */
const SLAB_BYTES = 8 * READ_BYTES
/** After a read of less than this there is a rest, so that a writer of single pages does not have to wake a reader for each. */
const REST_BELOW_BYTES = READ_BYTES / 4
const REST_MS = 0.5

const [block = '', ramBytes = '', memoryFile = '', stateFile = ''] = process.argv.slice(2)

// Nobody may be left to read what is printed.
process.stdout.on('error', () => undefined)

if (!fstatSync(INPUT).isFIFO()) throw new Error('standard input is no pipe')
const [memory, state] = [await open(memoryFile, 'wx', 0o600), await open(stateFile, 'wx', 0o600)]
process.stdout.write('reading\n')
try {
  const bytes = await splitMigrationStream(pieces(), { block, ramBytes: Number(ramBytes), memory, state })
  say({ ok: true, bytes })
} catch (error) {
  say({ ok: false, message: messageOf(error), code: isHypemanError(error) ? error.code : 'internal' })
  for (const buffer = Buffer.alloc(READ_BYTES); readSync(INPUT, buffer) > 0;);
}

function say(result: SplitResult): void {
  process.stdout.write(`${JSON.stringify(result)}\n`)
}

/** Waits in the system call, since this process has nothing else to do. */
async function* pieces(): AsyncGenerator<Buffer> {
  const clock = new Int32Array(new SharedArrayBuffer(4))
  for (let [slab, at] = [Buffer.allocUnsafeSlow(SLAB_BYTES), 0]; ;) {
    if (at + READ_BYTES > slab.length) [slab, at] = [Buffer.allocUnsafeSlow(SLAB_BYTES), 0]
    const length = readSync(INPUT, slab, at, READ_BYTES, null)
    if (length === 0) return
    yield slab.subarray(at, at + length)
    at += length
    if (length < REST_BELOW_BYTES) Atomics.wait(clock, 0, 0, REST_MS)
  }
}
