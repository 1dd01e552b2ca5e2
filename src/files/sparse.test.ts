import assert from 'node:assert/strict'
import { mkdir, mkdtemp, open, readFile, rm, stat, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import fc from 'fast-check'
import { diskMissing, mountDisk } from '../../tests/support/loop-disk.ts'
import { copySparse, extentsOf } from './sparse.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'sparse-'))
after(() => rm(root, { recursive: true }))

/** Stretches of data in a file of up to 8 MiB, most at no particular boundary, and the file's size, often with a hole at its end. */
const layout = fc.record({
  stretches: fc.array(fc.tuple(fc.nat(8 * 1024 ** 2), fc.integer({ min: 1, max: 700_000 })), { maxLength: 12 }),
  tail: fc.oneof(fc.constant(0), fc.nat(3 * 1024 ** 2)),
})

async function makeSparse(file: string, stretches: readonly (readonly [number, number])[], tail: number): Promise<void> {
  await using handle = await open(file, 'w')
  let end = 0
  for (const [from, length] of stretches) {
    await handle.write(Buffer.alloc(length, (from % 255) + 1), 0, length, from)
    end = Math.max(end, from + length)
  }
  await handle.truncate(end + tail)
}

async function extents(file: string): Promise<number> {
  await using handle = await open(file, 'r')
  return [...extentsOf(handle.fd, (await handle.stat()).size, file)].length
}

async function holdsTheRules(directory: string): Promise<void> {
  await mkdir(directory, { recursive: true })
  await fc.assert(
    fc.asyncProperty(layout, async ({ stretches, tail }) => {
      const [source, target] = [path.join(directory, 'source'), path.join(directory, 'target')]
      await makeSparse(source, stretches, tail)
      await copySparse(source, target)
      assert.ok((await readFile(target)).equals(await readFile(source)), 'the same bytes')
      const [from, to] = [await stat(source), await stat(target)]
      assert.equal(to.size, from.size)
      const allowed = from.blocks * 512 + (await extents(source)) * to.blksize
      assert.ok(to.blocks * 512 <= allowed, `${to.blocks * 512} bytes on disk, at most ${allowed} are right`)
      for (const file of [source, target]) await rm(file)
    }),
    { numRuns: 30 },
  )
}

test('a copy has the same bytes and takes no more space than a block an extent: here', () => holdsTheRules(path.join(root, 'here')))

for (const kind of ['ext4', 'xfs'] as const)
  test(`a copy has the same bytes and takes no more space than a block an extent: ${kind}`, { skip: diskMissing(kind) }, async () => {
    await using disk = await mountDisk(kind, kind === 'xfs' ? 400 : 64)
    await holdsTheRules(disk.path)
  })

test('a file of holes alone, an empty one, and one that ends in a hole keep their size and take no space', async () => {
  const at = (name: string): string => path.join(root, name)
  for (const size of [0, 1, 4096, 5 * 1024 ** 3]) {
    await makeSparse(at('holes'), [], size)
    await copySparse(at('holes'), at('holes-copy'))
    const { size: copied, blocks } = await stat(at('holes-copy'))
    assert.deepEqual([copied, blocks], [size, 0])
    await rm(at('holes-copy'))
  }
})

test('a target that exists is not touched', async () => {
  const at = (name: string): string => path.join(root, name)
  await writeFile(at('one'), 'one')
  await writeFile(at('two'), 'two')
  await assert.rejects(copySparse(at('one'), at('two')), { code: 'EEXIST' })
  assert.equal(await readFile(at('two'), 'utf8'), 'two')
})
