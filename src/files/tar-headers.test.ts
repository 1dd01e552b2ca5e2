import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { tarOf } from '../../tests/support/oci.ts'
import { tarEntries, TarError, type TarEntry } from './tar-headers.ts'

type Shown = Pick<TarEntry, 'path' | 'type' | 'linkPath' | 'unpackedBytes'>

async function entriesOf(tar: Buffer, chunkBytes = 700): Promise<Shown[]> {
  const entries: Shown[] = []
  for await (const { path: name, type, linkPath, unpackedBytes } of tarEntries(chunksOf(tar, chunkBytes)))
    entries.push({ path: name, type, linkPath, unpackedBytes })
  return entries
}

async function* chunksOf(tar: Buffer, chunkBytes: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < tar.length; at += chunkBytes) yield tar.subarray(at, at + chunkBytes)
}

test('entries come out the same however the stream is cut', async () => {
  const tar = tarOf([
    { path: 'dir/', type: 'directory' },
    { path: 'dir/file', content: 'x'.repeat(1_500) },
    { path: 'dir/link', type: 'hardlink', linkTo: 'dir/file' },
    { path: 'short', content: 'y', pax: { path: 'long/'.repeat(40) + 'ü', mtime: '1700000000.25' } },
  ])
  const expected = [
    { path: 'dir/', type: '5', linkPath: '', unpackedBytes: 0 },
    { path: 'dir/file', type: '0', linkPath: '', unpackedBytes: 1_500 },
    { path: 'dir/link', type: '1', linkPath: 'dir/file', unpackedBytes: 0 },
    { path: 'long/'.repeat(40) + 'ü', type: '0', linkPath: '', unpackedBytes: 1 },
  ]
  for (const chunkBytes of [1, 511, 512, 513, 100_000]) assert.deepEqual(await entriesOf(tar, chunkBytes), expected)
})

for (const format of ['gnu', 'pax', 'ustar', 'oldgnu'] as const)
  test(`GNU tar's ${format} archives are read, sparse files at their full size`, async () => {
    const directory = await mkdtemp(path.join(os.tmpdir(), 'tar-headers-'))
    try {
      const long = 'n'.repeat(format === 'ustar' ? 80 : 160)
      await writeFile(path.join(directory, long), 'content')
      await writeFile(path.join(directory, 'sparse'), 'x')
      await truncate(path.join(directory, 'sparse'), 3 * 1024 ** 2)
      const options = format === 'ustar' ? [] : ['--sparse']
      const tar = execFileSync('tar', [`--format=${format}`, ...options, '-C', directory, '-c', long, 'sparse'], {
        maxBuffer: 64 * 1024 ** 2,
      })
      assert.deepEqual(
        (await entriesOf(tar)).map((entry) => [entry.path, entry.type, entry.unpackedBytes]),
        [
          [long, '0', 7],
          ['sparse', '0', 3 * 1024 ** 2],
        ],
      )
    } finally {
      await rm(directory, { recursive: true })
    }
  })

test('the content of an entry can be read, up to a limit', async () => {
  const tar = tarOf([
    { path: 'one', content: 'first' },
    { path: 'two', content: 'second' },
  ])
  const read: (string | undefined)[] = []
  for await (const entry of tarEntries(chunksOf(tar, 100))) read.push((await entry.read(5))?.toString())
  assert.deepEqual(read, ['first', undefined])
})

test('an archive without its closing zeros is whole; one that is cut within an entry is not', async () => {
  const tar = tarOf([{ path: 'file', content: 'x'.repeat(600) }])
  assert.equal((await entriesOf(tar.subarray(0, tar.length - 1024))).length, 1)
  await assert.rejects(entriesOf(tar.subarray(0, 1_000)), TarError)
  await assert.rejects(entriesOf(tar.subarray(0, 300)), TarError)
})

test('what is no tar, and numbers that are none, are refused', async () => {
  await assert.rejects(entriesOf(Buffer.from('x'.repeat(2_000))), TarError)
  for (const pax of [{ size: '-1' }, { size: 'many' }, { size: '' }, { 'GNU.sparse.realsize': '1e30' }] satisfies Readonly<
    Record<string, string>
  >[])
    await assert.rejects(entriesOf(tarOf([{ path: 'file', pax }])), TarError, JSON.stringify(pax))
  const damaged = tarOf([{ path: 'file', content: 'x' }])
  damaged[0] = 0x7a
  await assert.rejects(entriesOf(damaged), /checksum/)
})
