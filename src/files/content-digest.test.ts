// Digests of contents: holes make no difference, everything else does.

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdir, mkdtemp, open, rm, stat, symlink, truncate, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import fc from 'fast-check'
import { diskMissing, mountDisk } from '../../tests/support/loop-disk.ts'
import { contentDigestPattern, digestFile } from './content-digest.ts'
import { copyPayload } from './copy.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'digest-'))
after(() => rm(root, { recursive: true }))
let count = 0
const fresh = (): string => path.join(root, String((count += 1)))
const digest = async (file: string): Promise<string> => (await digestFile(file)).digest

/** Stretches of data, zeros among them, at no particular boundary, and a size that need not be a multiple of anything. */
const contents = fc.record({
  stretches: fc.array(
    fc.record({ at: fc.nat(2 * 1024 ** 2), length: fc.integer({ min: 1, max: 60_000 }), byte: fc.constantFrom(0, 0, 1, 7, 255) }),
    { maxLength: 8 },
  ),
  tail: fc.oneof(fc.constant(0), fc.nat(20_000)),
})
type Contents = typeof contents extends fc.Arbitrary<infer T> ? T : never

function bytesOf({ stretches, tail }: Contents): Buffer {
  const bytes = Buffer.alloc(Math.max(0, ...stretches.map(({ at, length }) => at + length)) + tail)
  for (const { at, length, byte } of stretches) bytes.fill(byte, at, at + length)
  return bytes
}

/** Writes only blocks that hold something, of a size of one's choice: other blocks, other holes. */
async function writeWithHoles(file: string, bytes: Buffer, block: number): Promise<void> {
  await using handle = await open(file, 'wx')
  for (let at = 0; at < bytes.length; at += block) {
    const piece = bytes.subarray(at, at + block)
    if (piece.some((byte) => byte !== 0)) await handle.write(piece, 0, piece.length, at)
  }
  await handle.truncate(bytes.length)
}

test('equal contents have equal digests, whatever holes the file has', async () => {
  await fc.assert(
    fc.asyncProperty(contents, fc.constantFrom(512, 4096, 65_536, 1024 ** 2), async (wanted, block) => {
      const bytes = bytesOf(wanted)
      const [dense, sparse] = [fresh(), fresh()]
      await writeFile(dense, bytes)
      await writeWithHoles(sparse, bytes, block)
      const expected = await digest(dense)
      assert.match(expected, contentDigestPattern)
      assert.equal(await digest(sparse), expected)
      for (const file of [dense, sparse]) await rm(file)
    }),
    { numRuns: 60 },
  )
})

test('a flipped bit, a byte more or less, and data that moved by a block make another digest', async () => {
  await fc.assert(
    fc.asyncProperty(contents, fc.nat(), fc.nat(7), async (wanted, where, bit) => {
      const bytes = bytesOf(wanted)
      const file = fresh()
      await writeFile(file, bytes)
      const digests = new Set([await digest(file)])
      const others = [bytes.subarray(0, -1), Buffer.concat([bytes, Buffer.alloc(1)]), Buffer.concat([Buffer.alloc(4096), bytes])]
      if (bytes.length > 0) {
        const flipped = Buffer.from(bytes)
        const at = where % bytes.length
        flipped[at] = (flipped[at] ?? 0) ^ (1 << bit)
        others.push(flipped)
      }
      const different = others.filter((other) => !other.equals(bytes))
      for (const other of different) {
        await writeFile(file, other)
        digests.add(await digest(file))
      }
      assert.equal(digests.size, 1 + different.length)
      await rm(file)
    }),
    { numRuns: 60 },
  )
})

test('the digest is the documented one', async () => {
  const file = fresh()
  const [first, last] = [Buffer.alloc(4096, 1), Buffer.alloc(100, 2)]
  await writeFile(file, Buffer.concat([first, Buffer.alloc(8192), last]))
  const sha256 = (...parts: Buffer[]): Buffer => createHash('sha256').update(Buffer.concat(parts)).digest()
  const u64 = (...values: number[]): Buffer => Buffer.from(new BigUint64Array(values.map(BigInt)).buffer)
  const expected = sha256(Buffer.from('hypeman content 1\n'), u64(12_388), sha256(first, last), sha256(u64(0, 1, 3, 1)))
  assert.equal(await digest(file), `content-sha256:${expected.toString('hex')}`)
})

test('holes are not read: a file of a hundred gigabytes with a page of data costs a page', async () => {
  const file = fresh()
  await writeFile(file, 'x')
  await truncate(file, 100 * 1024 ** 3 + 1)
  const { readBytes } = await digestFile(file)
  assert.ok(readBytes <= 65_536, `${readBytes} bytes were read`)
})

for (const kind of ['ext4', 'xfs'] as const)
  test(`a copy on ${kind}, where holes have other sizes, has the same digest`, { skip: diskMissing(kind) }, async () => {
    await using disk = await mountDisk(kind, kind === 'xfs' ? 400 : 64)
    const source = fresh()
    const bytes = Buffer.alloc(9 * 1024 ** 2 + 123)
    for (const at of [0, 5_000, 1024 ** 2 + 1, 6 * 1024 ** 2]) bytes.fill(at % 251, at, at + 3_000)
    await writeWithHoles(source, bytes, 512)
    const copy = path.join(disk.path, 'copy')
    await copyPayload(source, copy)
    assert.notEqual((await stat(copy)).size, (await stat(copy)).blocks * 512)
    assert.equal(await digest(copy), await digest(source))
  })

test('a link, a directory and a file that ends too early are errors, never digests', async () => {
  const [file, link, directory] = [fresh(), fresh(), fresh()]
  await writeFile(file, 'x')
  await symlink(file, link)
  await mkdir(directory)
  await assert.rejects(digestFile(link), { code: 'ELOOP' })
  await assert.rejects(digestFile(directory))
  await assert.rejects(digestFile(fresh()), { code: 'ENOENT' })
})

test('a file that is written to meanwhile is an error, and an abort ends the reading', async () => {
  const file = fresh()
  await writeFile(file, Buffer.alloc(3 * 1024 ** 2, 1))
  let written: Promise<void> | undefined
  const writeOnce = (): void => void (written ??= writeFile(file, Buffer.alloc(3 * 1024 ** 2, 2)))
  await assert.rejects(digestFile(file, { onProgress: writeOnce }), /was written to while it was read|shrank/)
  await written
  const cancel = new AbortController()
  await assert.rejects(digestFile(file, { signal: cancel.signal, onProgress: () => cancel.abort(new Error('enough')) }), /enough/)
})
