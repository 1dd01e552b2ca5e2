// What is compressed comes back byte for byte and as sparse as it was, whatever it holds; what is damaged, cut short or called off does not come back at all.

import assert from 'node:assert/strict'
import { mkdtemp, open, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { isHypemanError } from '../api/errors.ts'
import { compressedSuffix, compressFile, compressionAlgorithms, decompressFile, decompressingCommand } from './compression.ts'
import { digestFile } from './content-digest.ts'
import { Digests } from './digests.ts'

const never = new AbortController().signal

interface Place extends AsyncDisposable {
  readonly raw: string
  readonly packed: string
  readonly back: string
}

async function place(): Promise<Place> {
  const directory = await mkdtemp(path.join(os.tmpdir(), 'compression-'))
  const at = (name: string): string => path.join(directory, name)
  return {
    raw: at('raw'),
    packed: at('packed'),
    back: at('back'),
    [Symbol.asyncDispose]: () => rm(directory, { recursive: true }),
  }
}

/** A file of holes with data at offsets. */
async function sparse(file: string, bytes: number, pieces: readonly (readonly [at: number, data: Uint8Array])[]): Promise<void> {
  await using handle = await open(file, 'w')
  await handle.truncate(bytes)
  for (const [at, data] of pieces) await handle.write(data, 0, data.length, at)
}

const pieces = fc.array(fc.tuple(fc.nat(4_000_000), fc.uint8Array({ minLength: 1, maxLength: 20_000 })), { maxLength: 5 })

for (const algorithm of compressionAlgorithms) {
  test(`${algorithm}: any file comes back as it was, and its digest can be told without writing it`, async () => {
    await using digests = new Digests()
    await fc.assert(
      fc.asyncProperty(pieces, fc.integer({ min: 4_100_000, max: 5_000_000 }), fc.nat(9), async (data, bytes, level) => {
        await using at = await place()
        await sparse(at.raw, bytes, data)
        await compressFile(at.raw, at.packed, { algorithm, level: Math.max(level, algorithm === 'zstd' ? 1 : 0) }, never)
        await decompressFile(at.packed, at.back, algorithm, never)
        assert.ok((await readFile(at.back)).equals(await readFile(at.raw)))
        const { digest } = await digestFile(at.raw)
        const command = decompressingCommand(at.packed, algorithm)
        assert.equal(await digests.readOutput({ command, sizeBytes: bytes }, never), digest)
        await assert.rejects(digests.readOutput({ command, sizeBytes: bytes - 1 }, never), /more than/)
        await assert.rejects(digests.readOutput({ command, sizeBytes: bytes + 1 }, never), /instead of/)
      }),
      { numRuns: 5 },
    )
  })

  test(`${algorithm}: a file that is nearly all holes is small, and nearly all holes again`, async () => {
    await using at = await place()
    await using digests = new Digests()
    const bytes = 2 ** 26 + 8192
    const page = Buffer.alloc(4096, 7)
    await sparse(at.raw, bytes, [
      [0, page],
      [2 ** 25, page],
      [2 ** 26 - 4096, page],
      [2 ** 26 + 4096, page],
    ])
    await compressFile(at.raw, at.packed, { algorithm, level: 1 }, never)
    await decompressFile(at.packed, at.back, algorithm, never)
    const [packed, back] = await Promise.all([stat(at.packed), stat(at.back)])
    assert.ok(packed.size < 1024 ** 2, `${packed.size} bytes`)
    assert.equal(back.size, bytes)
    assert.ok(back.blocks * 512 < 1024 ** 2, `${back.blocks * 512} bytes on disk`)
    const { digest } = await digestFile(at.raw)
    assert.equal((await digestFile(at.back)).digest, digest)
    assert.equal(await digests.readOutput({ command: decompressingCommand(at.packed, algorithm), sizeBytes: bytes }, never), digest)
  })

  test(`${algorithm}: what is damaged or cut short is told, and so is a file that is none`, async () => {
    await using at = await place()
    await using digests = new Digests()
    await writeFile(at.raw, Buffer.from(Array.from({ length: 300_000 }, (_, index) => (index * index) % 251)))
    await compressFile(at.raw, at.packed, { algorithm, level: 1 }, never)
    const whole = await readFile(at.packed)
    const broken = Buffer.from(whole)
    const middle = Math.floor(broken.length / 2)
    broken[middle] = (broken[middle] ?? 0) ^ 1
    for (const contents of [broken, whole.subarray(0, whole.length - 5), Buffer.from('neither')]) {
      await writeFile(at.packed, contents)
      await assert.rejects(decompressFile(at.packed, at.back, algorithm, never), (error) => isHypemanError(error, 'corrupt_snapshot'))
      await rm(at.back, { force: true })
      const command = decompressingCommand(at.packed, algorithm)
      await assert.rejects(digests.readOutput({ command, sizeBytes: 300_000 }, never), /ended with code \d+|bytes came out/)
    }
  })

  test(`${algorithm}: what is called off ends at once`, async () => {
    await using at = await place()
    await using digests = new Digests()
    await writeFile(at.raw, '')
    await truncate(at.raw, 40 * 1024 ** 3)
    const signal = AbortSignal.timeout(100)
    await assert.rejects(compressFile(at.raw, at.packed, { algorithm, level: 9 }, signal), { name: 'TimeoutError' })
    await writeFile(at.raw, '')
    await truncate(at.raw, 2 ** 28)
    await rm(at.packed, { force: true })
    await compressFile(at.raw, at.packed, { algorithm, level: 1 }, never)
    const command = decompressingCommand(at.packed, algorithm)
    const late = AbortSignal.timeout(20)
    await assert.rejects(digests.readOutput({ command, sizeBytes: 2 ** 28 }, late), { name: 'TimeoutError' })
    const { digest } = await digestFile(at.raw)
    assert.equal(await digests.readOutput({ command, sizeBytes: 2 ** 28 }, never), digest, 'the next one has its turn')
  })
}

test('names of compressed files tell by what', () => {
  assert.deepEqual(compressedSuffix, { zstd: '.zst', lz4: '.lz4' })
})
