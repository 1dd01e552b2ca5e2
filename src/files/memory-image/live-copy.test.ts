// Memory of a process that writes to it all the while, copied as it was in one instant. With a real userfaultfd; with QEMU: hypervisors/qemu/live-memory.test.ts.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { after, test } from 'node:test'
import { isHypemanError } from '../../api/errors.ts'
import { whyNotCatchWrites } from '../../platform/host-rights.ts'
import { openPipe } from '../../platform/pipe.ts'
import { takeTraps } from '../../platform/userfaultfd.ts'
import { startLiveCopy, type LiveCopy } from './live-copy.ts'
import { pageBytes, type Mapping } from './private-pages.ts'
import { readParts } from './process-memory.ts'

const lacking = whyNotCatchWrites()
const onLinux = { skip: lacking ?? false }
const directory = await mkdtemp(path.join(os.tmpdir(), 'live-copy-'))
after(() => rm(directory, { recursive: true }))
const program = path.resolve(import.meta.dirname, '../../../tests/support/trapped-writer.ts')
const PAGES = 5000

interface Writer extends AsyncDisposable {
  readonly ram: Mapping
  /** Resolves when each page is written. */
  write(value: number): Promise<void>
  /** The values of the first bytes of all pages. */
  values(): Set<number>
}

async function startWriter(): Promise<Writer> {
  const child = spawn(process.execPath, [program, String(PAGES)], { stdio: ['pipe', 'pipe', 'inherit'] })
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const address = Number((await lines.next()).value)
  const ram = { pid: child.pid ?? 0, address, bytes: PAGES * pageBytes, file: '', inode: '' }
  return {
    ram,
    async write(value) {
      child.stdin.write(`${value}\n`)
      assert.equal((await lines.next()).value, String(value))
    },
    values: () => valuesOf(read(ram)),
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL')
      await once(child, 'close')
    },
  }
}

function read({ pid, address, bytes }: Mapping): Buffer {
  const into = Buffer.alloc(bytes)
  readParts(pid, BigUint64Array.of(BigInt(address), BigInt(bytes)), into)
  return into
}

function valuesOf(memory: Buffer): Set<number> {
  return new Set(Array.from({ length: memory.length / pageBytes }, (_, page) => memory.readUInt8(page * pageBytes)))
}

/** A copy with a stream that ends with it. */
async function startCopy(ram: Mapping, file: string): Promise<LiveCopy> {
  using pipe = openPipe(pageBytes)
  return await startLiveCopy(ram, file, pipe.readEnd)
}

test('what is written while memory is copied waits for its page, and the copy is of one instant', onLinux, async () => {
  await using writer = await startWriter()
  for (const generation of [2, 3]) {
    const file = path.join(directory, `instant-${generation}`)
    using copy = await startCopy(writer.ram, file)
    await copy.order('take')
    await copy.order('protect')
    const writing = writer.write(generation)
    assert.equal(await copy.order('copy'), writer.ram.bytes)
    await writing
    assert.deepEqual(valuesOf(await readFile(file)), new Set([generation - 1]))
    assert.deepEqual(writer.values(), new Set([generation]))
  }
})

test('a copy that is given up, or whose process is killed, lets the writer go on', onLinux, async () => {
  await using writer = await startWriter()
  {
    using copy = await startCopy(writer.ram, path.join(directory, 'given-up'))
    await copy.order('take')
    await copy.order('protect')
  }
  await writer.write(2)
  // As whoever outlives it does.
  using traps = takeTraps(writer.ram.pid)
  traps?.protect(writer.ram)
  const writing = writer.write(3)
  traps?.releaseAll()
  await writing
  assert.deepEqual(writer.values(), new Set([3]))
})

test('zeros stay holes', onLinux, async () => {
  await using writer = await startWriter()
  await writer.write(0)
  const file = path.join(directory, 'zeros')
  using copy = await startCopy(writer.ram, file)
  for (const order of ['take', 'protect'] as const) await copy.order(order)
  assert.equal(await copy.order('copy'), 0)
  assert.ok((await readFile(file)).equals(Buffer.alloc(writer.ram.bytes)))
})

test('a process that catches no writes, and one that is gone, are errors', onLinux, async () => {
  const child = spawn('sleep', ['60'])
  await once(child, 'spawn')
  const ram = { pid: child.pid ?? 0, address: 0, bytes: pageBytes, file: '', inode: '' }
  {
    using copy = await startCopy(ram, path.join(directory, 'no-traps'))
    await assert.rejects(copy.order('take'), /does not catch/)
  }
  child.kill('SIGKILL')
  await once(child, 'close')
  using copy = await startCopy(ram, path.join(directory, 'gone'))
  await assert.rejects(copy.order('take'), (error) => error instanceof Error)
})

test('a file that is there already is left alone, and nothing begins', onLinux, async () => {
  await using writer = await startWriter()
  const file = path.join(directory, 'there')
  using first = await startCopy(writer.ram, file)
  await first.order('take')
  await assert.rejects(startCopy(writer.ram, file), (error) => isHypemanError(error) || error instanceof Error)
  await writer.write(2)
})
