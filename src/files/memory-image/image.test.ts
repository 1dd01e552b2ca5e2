// Memory images of a real private mapping: what is read out of it, written as base or diff, merged, and written back.

import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import fc from 'fast-check'
import { isHypemanError } from '../../api/errors.ts'
import { makeBase as makeBaseFile, mappingOf, pages, ramBytes, range, somePages, write } from '../../../tests/support/guest-memory.ts'
import { mapPrivately } from '../../../tests/support/private-mapping.ts'
import { capturePages, makeRoom, saveChanges } from './changes.ts'
import { checkDiff } from './diff-file.ts'
import { applyDiffs, createHoles, mergeDiff, saveAsBase } from './image.ts'
import { findMapping, isMappedFile, pageBytes, privatePages, readAll, type Mapping } from './private-pages.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'image-'))
after(() => rm(root, { recursive: true }))
let count = 0
const fresh = (name: string): string => path.join(root, `${(count += 1)}-${name}`)

async function makeBase(filled: ReadonlySet<number>): Promise<string> {
  const file = fresh('memory-1.base')
  await makeBaseFile(file, filled)
  return file
}

/** Writes what differs from the base. Returns the bytes. */
async function saveAsDiff(mapping: Mapping, base: string, diff: string): Promise<number> {
  const captured = await capturePages(mapping, await privatePages(mapping), fresh('whole'))
  return (await saveChanges(captured, { base, diffs: [] }, diff)).bytes
}

test('exactly the pages that were written are private, in joined runs, and reading makes none', async () => {
  const file = await makeBase(new Set(range(0, 50)))
  using mapped = mapPrivately(file, ramBytes)
  const mapping = await mappingOf(file)
  assert.deepEqual(await privatePages(mapping), [])
  assert.equal(mapped.bytes.reduce((sum, byte) => sum + byte, 0) > 0, true)
  assert.deepEqual(await privatePages(mapping), [])
  write(mapped.bytes, new Set([0, 3, 4, 5, 200, pages - 1]))
  assert.deepEqual(await privatePages(mapping), [
    { first: 0, count: 1 },
    { first: 3, count: 3 },
    { first: 200, count: 1 },
    { first: pages - 1, count: 1 },
  ])
})

test('the kernel finds the private pages that a look at every page finds', async () => {
  await fc.assert(
    fc.asyncProperty(somePages, somePages, somePages, async (filled, read, written) => {
      const base = await makeBase(filled)
      using mapped = mapPrivately(base, ramBytes)
      for (const page of read) assert.ok(mapped.bytes.readUInt8(page * pageBytes) >= 0)
      write(mapped.bytes, written)
      const mapping = await mappingOf(base)
      const found = await privatePages(mapping, () => undefined)
      assert.equal(
        found.reduce((sum, { count: pagesOfRun }) => sum + pagesOfRun, 0),
        written.size,
      )
      assert.deepEqual(await privatePages(mapping), found)
    }),
    { numRuns: 20 },
  )
})

test('pages that lie apart, more of them than the kernel finds at once, are found once each', async () => {
  const runs = [511, 512, 513, 600, 4095, 4096, 4097, 5000]
  const bytes = 2 * Math.max(...runs) * pageBytes
  const file = fresh('memory-1.base')
  await createHoles(file, bytes)
  using mapped = mapPrivately(file, bytes)
  const mapping = await mappingOf(file, bytes)
  let written = 0
  for (const wanted of runs) {
    for (; written < wanted; written += 1) mapped.bytes.writeUInt8(1, 2 * written * pageBytes)
    const found = await privatePages(mapping)
    assert.equal(found.length, wanted)
    assert.deepEqual(found, await privatePages(mapping, () => undefined))
  }
})

test('where the kernel can not search, guests larger than one look at their pages are looked through whole', async () => {
  const file = fresh('memory-1.base')
  const bytes = 300 * 1024 ** 2
  await createHoles(file, bytes)
  using mapped = mapPrivately(file, bytes)
  mapped.bytes.writeUInt8(1, bytes - 1)
  const mapping = await mappingOf(file, bytes)
  assert.deepEqual(await privatePages(mapping, () => undefined), [{ first: bytes / pageBytes - 1, count: 1 }])
})

test('base and diff together are what the process saw, and give another process the same memory', async () => {
  await fc.assert(
    fc.asyncProperty(somePages, somePages, async (filled, written) => {
      const base = await makeBase(filled)
      const untouched = await readFile(base)
      const [diff, merged] = [fresh('diff'), fresh('merged')]
      using mapped = mapPrivately(base, ramBytes)
      write(mapped.bytes, written)
      const mapping = await mappingOf(base)
      const bytes = await saveAsDiff(mapping, base, diff)
      if (bytes === 0) {
        assert.ok(mapped.bytes.equals(untouched), 'nothing changed')
        return
      }
      assert.equal(bytes, (await stat(diff)).size)
      assert.ok(bytes <= (written.size + 1 + Math.ceil((64 + 16 * written.size) / pageBytes)) * pageBytes)
      await checkDiff(diff, ramBytes)

      await mergeDiff(base, diff, merged)
      assert.ok((await readFile(merged)).equals(mapped.bytes), 'merged')
      const [grown, before] = [await stat(merged), await stat(base)]
      assert.ok(grown.blocks * 512 <= before.blocks * 512 + written.size * pageBytes + 16 * pageBytes, 'holes stay holes')

      const again = fresh('memory-2.base')
      await writeFile(again, untouched)
      using other = mapPrivately(again, ramBytes)
      await applyDiffs([diff], await mappingOf(again))
      assert.ok(other.bytes.equals(mapped.bytes), 'applied')
      for (const file of [base, again]) assert.ok((await readFile(file)).equals(untouched), 'base files are never written')
      for (const file of [base, diff, merged, again]) await rm(file)
    }),
    { numRuns: 25 },
  )
})

test('a first image holds what is not zero, at its own place, and nothing else', async () => {
  await fc.assert(
    fc.asyncProperty(somePages, async (written) => {
      const [holes, target] = [fresh('memory-0.base'), fresh('target')]
      await createHoles(holes, ramBytes)
      using mapped = mapPrivately(holes, ramBytes)
      write(mapped.bytes, written)
      const mapping = await mappingOf(holes)
      const bytes = await saveAsBase(mapping, await privatePages(mapping), target)
      assert.equal(bytes, [...written].filter((page) => page % 5 !== 0).length * pageBytes)
      assert.ok((await readFile(target)).equals(mapped.bytes))
      assert.ok((await stat(target)).blocks * 512 <= bytes + 16 * pageBytes)
      assert.equal((await stat(holes)).blocks, 0)
      for (const file of [holes, target]) await rm(file)
    }),
    { numRuns: 25 },
  )
})

test('a diff that is not what it says is refused by name and is never data', async () => {
  const base = await makeBase(new Set([1]))
  using mapped = mapPrivately(base, ramBytes)
  write(mapped.bytes, new Set([2, 3, 9, 101]))
  const mapping = await mappingOf(base)
  const file = fresh('diff')
  await saveAsDiff(mapping, base, file)
  const intact = await readFile(file)
  const refused = async (what: string, change: (bytes: Buffer) => Buffer | void): Promise<void> => {
    const bytes = Buffer.from(intact)
    await writeFile(file, change(bytes) ?? bytes)
    const isDamage = (error: unknown): boolean => isHypemanError(error, 'corrupt_snapshot') && error.message.includes(file)
    await assert.rejects(checkDiff(file, ramBytes), isDamage, what)
    await assert.rejects(applyDiffs([file], mapping), isDamage, what)
    const target = fresh('merged')
    await assert.rejects(mergeDiff(base, file, target), isDamage, what)
  }
  await refused('empty', () => Buffer.alloc(0))
  await refused('shorter than a header', (bytes) => bytes.subarray(0, 63))
  await refused('another kind of file', (bytes) => void bytes.write('QFI'))
  await refused('another size of pages', (bytes) => void bytes.writeUInt32LE(16_384, 8))
  await refused('another size of memory', (bytes) => void bytes.writeBigUInt64LE(BigInt(ramBytes * 2), 16))
  await refused('more runs than pages', (bytes) => void bytes.writeBigUInt64LE(BigInt(pages + 1), 24))
  await refused('more runs than numbers', (bytes) => void bytes.writeBigUInt64LE(2n ** 64n - 1n, 24))
  await refused('fewer runs than pages go with', (bytes) => void bytes.writeBigUInt64LE(1n, 24))
  await refused('data elsewhere', (bytes) => void bytes.writeBigUInt64LE(8192n, 32))
  await refused('an empty run', (bytes) => void bytes.writeBigUInt64LE(0n, 64 + 8))
  await refused('runs out of order', (bytes) => void bytes.writeBigUInt64LE(9n, 64))
  await refused('a run beyond memory', (bytes) => void bytes.writeBigUInt64LE(BigInt(pages), 64 + 32))
  await refused('a run too long for any memory', (bytes) => void bytes.writeBigUInt64LE(2n ** 63n, 64 + 8))
  await refused('pages missing', (bytes) => bytes.subarray(0, -1))
  await refused('pages too many', (bytes) => Buffer.concat([bytes, Buffer.alloc(pageBytes)]))
  await writeFile(file, intact)
  await checkDiff(file, ramBytes)
})

test('a file that only claims to hold many runs takes no memory for them', async () => {
  const file = fresh('diff')
  const runs = BigInt(2 ** 32)
  const header = Buffer.alloc(64)
  header.write('HMMDIFF1')
  header.writeUInt32LE(pageBytes, 8)
  header.writeBigUInt64LE(BigInt(ramBytes), 16)
  header.writeBigUInt64LE(runs, 24)
  header.writeBigUInt64LE(((64n + 16n * runs + 4095n) / 4096n) * 4096n, 32)
  await writeFile(file, header)
  await truncate(file, 2 ** 37)
  await assert.rejects(checkDiff(file, ramBytes), /more runs than pages/)
})

test('the mapping of a file is found after it was removed, and is not taken for a file that has its name now', async () => {
  const file = await makeBase(new Set([1]))
  using _mapped = mapPrivately(file, ramBytes)
  assert.equal(await isMappedFile(await mappingOf(file), file), true)
  const kept = `${file}.kept`
  await writeFile(kept, '')
  await rm(file)
  await writeFile(file, 'another')
  const mapping = await mappingOf(file)
  assert.equal(await isMappedFile(mapping, file), false)
  await assert.rejects(findMapping(process.pid, /^memory-1\.base$/, ramBytes * 2), (error) => isHypemanError(error, 'host_unavailable'))
  await assert.rejects(findMapping(2 ** 30, /./, ramBytes), /can't be read through \/proc/)
})

test('pages are read in their order, few and many, in one run and in many; one that is not there is an error that says why', async () => {
  const file = fresh('memory-1.base')
  const manyPages = (24 * 1024 ** 2) / pageBytes
  await createHoles(file, manyPages * pageBytes)
  using mapped = mapPrivately(file, manyPages * pageBytes)
  for (const page of range(0, manyPages)) mapped.bytes.writeUInt32LE(page, page * pageBytes + 8)
  const mapping = await findMapping(process.pid, /memory-1\.base$/, manyPages * pageBytes)
  const numbersIn = (read: Buffer): number[] => range(0, read.length / pageBytes).map((at) => read.readUInt32LE(at * pageBytes + 8))
  for (const wanted of [range(5, 300), range(0, manyPages), range(0, manyPages).filter((page) => page % 3 !== 0)]) {
    const runs: { first: number; count: number }[] = []
    for (const page of wanted) {
      const last = runs.at(-1)
      if (last !== undefined && last.first + last.count === page) last.count += 1
      else runs.push({ first: page, count: 1 })
    }
    const read = Buffer.alloc(wanted.length * pageBytes)
    await readAll(mapping, runs, read)
    assert.deepEqual(numbersIn(read), wanted)
  }
  for (const count of [10, manyPages]) {
    const gone = { ...mapping, pid: 2 ** 30 }
    await assert.rejects(readAll(gone, [{ first: 0, count }], Buffer.alloc(count * pageBytes)), /can't be read \(errno 3\)/)
    const nowhere = { ...mapping, address: 2 * pageBytes }
    await assert.rejects(readAll(nowhere, [{ first: 0, count }], Buffer.alloc(count * pageBytes)), /can't be read \(errno 14\)/)
  }
})

test('an abort ends a save between pieces', async () => {
  const base = await makeBase(new Set())
  using mapped = mapPrivately(base, ramBytes)
  write(mapped.bytes, new Set(range(1, pages)))
  const mapping = await mappingOf(base)
  const runs = await privatePages(mapping)
  const enough = AbortSignal.abort(new Error('enough'))
  const inFile = (...[, , file]: Parameters<typeof saveAsBase>): Promise<unknown> => makeRoom(mapping, runs, file, enough, 0)
  for (const save of [saveAsBase, inFile]) await assert.rejects(save(mapping, runs, fresh('aborted'), enough), /enough/)
  await assert.rejects(capturePages(mapping, runs, fresh('aborted'), { signal: enough }), /enough/)
  const captured = await capturePages(mapping, runs, fresh('whole'))
  await assert.rejects(saveChanges(captured, { base, diffs: [] }, fresh('aborted'), enough), /enough/)
})
