// Images from archives: what docker save and skopeo write, the base image that comes with the product, and what is no archive.

import assert from 'node:assert/strict'
import { lstat, readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { Readable } from 'node:stream'
import { test } from 'node:test'
import { gzipSync } from 'node:zlib'
import { isHypemanError, type ErrorCode } from '../../src/api/errors.ts'
import { run } from '../support/command.ts'
import { assertOnDisk, startImages } from '../support/images.ts'
import { buildLayout, type TestImage } from '../support/oci.ts'

const limit = (): AbortSignal => AbortSignal.timeout(60_000)
const refusedWith =
  (code: ErrorCode, words = /./) =>
  (error: unknown): boolean =>
    isHypemanError(error, code) && words.test(error.message)

const small = (word: string): TestImage => ({ layers: [[{ path: 'word', content: word }]], config: { Cmd: ['/bin/cat', '/word'] } })

test('the base image is there without any registry, once, and again when its archive changes', async () => {
  const { stdout } = await run('git', ['rev-parse', '--show-toplevel'])
  const baseArchive = path.join(stdout.trim(), '.assets/base.oci.tar')
  await using service = await startImages({ baseArchive })
  const base = service.images.ready('hypeman/base')
  assert.equal(base.name, 'docker.io/hypeman/base:latest')
  assert.equal((await service.images.pull({ name: 'hypeman/base' })).status, 'ready')
  const before = (await lstat(base.rootfsPath)).ino
  await service.restart()
  assert.equal((await lstat(service.images.ready('hypeman/base').rootfsPath)).ino, before)

  const changed = path.join(await service.directory(), 'base.tar')
  await writeFile(changed, await archiveOf(service, 'oci-archive', small('changed')))
  await using other = await startImages({ baseArchive: changed, layout: service.layout })
  assert.notEqual(other.images.ready('hypeman/base').digest, base.digest)
})

for (const format of ['oci-archive', 'docker-archive'] as const)
  for (const compressed of [false, true])
    test(`${compressed ? 'a compressed' : 'a plain'} ${format} is imported`, async () => {
      await using service = await startImages()
      const archive = await archiveOf(service, format, small('imported'))
      const stream = Readable.from(chunksOf(compressed ? gzipSync(archive) : archive))
      const imported = await service.images.importArchive('imported:1', stream, { from: 'file' })
      assert.equal(imported.name, 'docker.io/library/imported:1')
      const ready = await service.images.waitReady('imported:1', limit())
      assert.deepEqual(ready.config.cmd, ['/bin/cat', '/word'])
      assert.equal((await service.images.pull({ name: 'imported:1' })).digest, ready.digest, 'a pull of the name asks no registry')
      await assertOnDisk(service.layout, [ready.digest])
    })

test('an archive that is cut, damaged or none at all is refused and leaves nothing', async () => {
  await using service = await startImages()
  const archive = await archiveOf(service, 'oci-archive', small('x'.repeat(3_000)))
  const flipped = Buffer.from(archive)
  const middle = archive.indexOf(Buffer.from([0x1f, 0x8b])) + 40
  flipped[middle] = (flipped[middle] ?? 0) ^ 0xff
  const bad = {
    cut: archive.subarray(0, archive.length / 2),
    flipped,
    gzip: gzipSync(archive).subarray(0, 900),
    text: Buffer.from('no archive'),
    empty: Buffer.alloc(0),
  }
  for (const [what, bytes] of Object.entries(bad))
    await assert.rejects(service.images.importArchive('bad', Readable.from(chunksOf(bytes))), refusedWith('invalid_archive'), what)
  const broken = Readable.from(
    (function* () {
      yield archive.subarray(0, 5_000)
      throw new Error('the connection broke')
    })(),
  )
  await assert.rejects(service.images.importArchive('bad', broken), refusedWith('invalid_archive', /connection broke/))
  await assert.rejects(service.images.importArchive(`bad@sha256:${'0'.repeat(64)}`, Readable.from([])), refusedWith('invalid_name'))
  assert.deepEqual(service.images.list(), [])
  await assertOnDisk(service.layout, [])
})

async function archiveOf(
  service: { directory(): Promise<string> },
  format: 'oci-archive' | 'docker-archive',
  image: TestImage,
): Promise<Buffer> {
  const directory = await service.directory()
  await buildLayout(path.join(directory, 'oci'), image)
  const file = path.join(directory, 'archive.tar')
  const { code, stderr } = await run('skopeo', ['copy', '--quiet', `oci:${directory}/oci:image`, `${format}:${file}:imported:1`])
  assert.equal(code, 0, stderr)
  return await readFile(file)
}

function* chunksOf(bytes: Buffer): Generator<Buffer> {
  for (let at = 0; at < bytes.length; at += 10_000) yield bytes.subarray(at, at + 10_000)
}
