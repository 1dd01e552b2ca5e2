// Blobs that are kept of images: as they came, each once however many images have it, and told when some are missing.

import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { buildLayout, type LayerEntry } from '../../tests/support/oci.ts'
import { findKept, keepBlobs } from './kept-blobs.ts'
import { blobPath } from './layout-directory.ts'

async function temporary(): Promise<AsyncDisposable & { at(name: string): string }> {
  const home = await mkdtemp(path.join(os.tmpdir(), 'kept-'))
  return { at: (name) => path.join(home, name), [Symbol.asyncDispose]: () => rm(home, { recursive: true }) }
}

const base: LayerEntry[] = [{ path: 'base', content: 'b'.repeat(1_000) }]
const hex = (digest: string): string => digest.slice('sha256:'.length)

test('an image is kept as it came, and a layer that another image has takes no room again', async () => {
  await using home = await temporary()
  const one = await buildLayout(home.at('one'), { layers: [base] })
  const two = await buildLayout(home.at('two'), { layers: [base, [{ path: 'more', content: 'm' }]] })
  await keepBlobs(home.at('one'), one.digest, 'one', home.at('kept-one'), [])
  await keepBlobs(home.at('two'), two.digest, 'two', home.at('kept-two'), [home.at('kept-nothing'), home.at('kept-one')])

  const kept = await findKept(home.at('kept-two'), 'two')
  const sizes = await Promise.all(two.layerDigests.map(async (digest) => (await stat(blobPath(home.at('two'), digest))).size))
  assert.deepEqual(kept, { directory: home.at('kept-two'), layers: 2, layerBytes: (sizes[0] ?? 0) + (sizes[1] ?? 0) })
  assert.deepEqual(await readFile(path.join(home.at('kept-two'), 'manifest.json')), await readFile(blobPath(home.at('two'), two.digest)))
  const [shared = '', own = ''] = two.layerDigests.map(hex)
  const inode = async (directory: string, name: string): Promise<number> => (await stat(path.join(home.at(directory), name))).ino
  assert.equal(await inode('kept-two', shared), await inode('kept-one', shared))
  assert.equal(await inode('kept-two', own), (await stat(blobPath(home.at('two'), `sha256:${own}`))).ino)
})

test('a blob of another image with another length is not taken for the same', async () => {
  await using home = await temporary()
  const { digest, layerDigests } = await buildLayout(home.at('one'), { layers: [base] })
  const name = hex(layerDigests[0] ?? '')
  await keepBlobs(home.at('one'), digest, 'one', home.at('damaged'), [])
  await rm(path.join(home.at('damaged'), name))
  await writeFile(path.join(home.at('damaged'), name), 'short')
  await keepBlobs(home.at('one'), digest, 'one', home.at('kept'), [home.at('damaged')])
  assert.notEqual((await stat(path.join(home.at('kept'), name))).size, 5)
})

test('nothing kept is told apart from something missing', async () => {
  await using home = await temporary()
  assert.equal(await findKept(home.at('nothing'), 'one'), undefined)
  const { digest, layerDigests } = await buildLayout(home.at('one'), { layers: [base] })
  await keepBlobs(home.at('one'), digest, 'one', home.at('kept'), [])
  await rm(path.join(home.at('kept'), hex(layerDigests[0] ?? '')))
  await assert.rejects(findKept(home.at('kept'), 'one'), /the blob sha256:\w+ of one is missing .*pull it again/)
})
