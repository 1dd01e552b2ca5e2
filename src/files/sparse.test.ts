import assert from 'node:assert/strict'
import { mkdtemp, open, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import fc from 'fast-check'
import { probePageHoles, punchZeros, tellsPageHoles, writeOver } from './sparse.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'punch-'))
after(() => rm(root, { recursive: true }))

const BLOCK = 4096

test('a file keeps its size and contents, and takes no room for blocks of zeros', async () => {
  let count = 0
  await fc.assert(
    fc.asyncProperty(fc.array(fc.nat({ max: 3 }), { maxLength: 40 }), fc.nat({ max: BLOCK - 1 }), async (kinds, tail) => {
      const file = path.join(root, String((count += 1)))
      // A block is zeros, or has one byte at its beginning, its end or everywhere.
      const blocks = kinds.map((kind) => {
        const block = Buffer.alloc(BLOCK, kind === 3 ? 1 : 0)
        if (kind === 1) block[0] = 1
        if (kind === 2) block[BLOCK - 1] = 1
        return block
      })
      const contents = Buffer.concat([...blocks, Buffer.alloc(tail)])
      await writeFile(file, contents)
      const allocated = await punchZeros(file)
      assert.ok((await readFile(file)).equals(contents))
      const used = kinds.filter((kind) => kind !== 0).length + (tail > 0 ? 1 : 0)
      assert.equal(allocated, (await stat(file)).blocks * 512)
      assert.ok(allocated <= used * BLOCK, `${allocated} bytes for ${used} blocks`)
    }),
    { numRuns: 60 },
  )
})

test('holes that are there already are not read, and a large file is worked through in pieces', async () => {
  const file = path.join(root, 'large')
  await using handle = await open(file, 'wx')
  await handle.truncate(64 * 1024 ** 3)
  await handle.write(Buffer.alloc(3 * 1024 ** 2), 0, 3 * 1024 ** 2, 10 * 1024 ** 3)
  await handle.write('x', 10 * 1024 ** 3 + 2 * 1024 ** 2 + 5)
  assert.ok((await punchZeros(file)) <= 2 * BLOCK)
  assert.equal((await handle.stat()).size, 64 * 1024 ** 3)
})

test('an abort ends it', async () => {
  const file = path.join(root, 'aborted')
  await writeFile(file, Buffer.alloc(BLOCK))
  await assert.rejects(punchZeros(file, AbortSignal.abort(new Error('enough'))), /enough/)
})

test('what is written over a file replaces its blocks, with zeros too, and leaves the rest', async () => {
  let count = 0
  await fc.assert(
    fc.asyncProperty(fc.array(fc.tuple(fc.boolean(), fc.constantFrom('hole', 'zeros', 'data')), { maxLength: 30 }), async (blocks) => {
      const [file, over] = [path.join(root, `below-${(count += 1)}`), path.join(root, `over-${count}`)]
      await writeFile(file, Buffer.concat(blocks.map(([isData]) => Buffer.alloc(BLOCK, isData ? 7 : 0))))
      {
        await using handle = await open(over, 'wx')
        await handle.truncate(blocks.length * BLOCK)
        for (const [index, [, kind]] of blocks.entries())
          if (kind !== 'hole') await handle.write(Buffer.alloc(BLOCK, kind === 'data' ? 9 : 0), 0, BLOCK, index * BLOCK)
      }
      await writeOver(file, over)
      const wanted = blocks.map(([isData, kind]) => Buffer.alloc(BLOCK, kind === 'data' ? 9 : kind === 'zeros' ? 0 : isData ? 7 : 0))
      assert.ok((await readFile(file)).equals(Buffer.concat(wanted)))
    }),
    { numRuns: 60 },
  )
})

test('a file system is known by whether it tells a written page from the holes beside it', async () => {
  assert.equal(await tellsPageHoles(root), true)
  assert.equal(await probePageHoles(root), true)
  for (const extents of [[{ from: 0, to: 128 * 1024 }], [{ from: 0, to: 16 * 1024 ** 2 }], [{ from: BLOCK, to: 4 * BLOCK }], []])
    assert.equal(
      await probePageHoles(root, function* () {
        yield* extents
      }),
      false,
    )
  assert.deepEqual(
    (await readdir(root)).filter((name) => name.startsWith('holes')),
    [],
  )
})
