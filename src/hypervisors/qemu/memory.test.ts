// Memory images as files in a directory: which are whole, what damage is called, what is shared, and what is left when they go.

import assert from 'node:assert/strict'
import { link, mkdir, mkdtemp, readdir, rm, stat, truncate, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { isHypemanError } from '../../api/errors.ts'
import { createHoles } from '../../files/memory-image/image.ts'
import { dataLayout } from '../../files/layout.ts'
import { createQemuDriver } from './index.ts'
import { checkedManifest, createColdMemory, hasManifest, lastLayerOf, linkImage, readManifest, removeBases, removeImage } from './memory.ts'
import { createOverlay } from './qcow2.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'memory-'))
after(() => rm(root, { recursive: true }))
const ramBytes = 1024 ** 2
const manifest = { version: 1, base: 'memory-2.base', mapped: 'memory-1.base', hasDiff: false, ramBytes, lastLayer: 1 }
const driver = createQemuDriver({ machineType: 'q35', accelerator: 'tcg', layout: dataLayout(root) })
let count = 0

async function freshDirectory(): Promise<string> {
  const directory = path.join(root, String((count += 1)))
  await mkdir(directory)
  return directory
}

/** A whole image with its disk; `change` is laid over the manifest. */
async function image(change: Readonly<Record<string, unknown>> = {}): Promise<string> {
  const directory = await freshDirectory()
  const at = (name: string): string => path.join(directory, name)
  await createHoles(at('disk-0.raw'), 1024 ** 2)
  for (const layer of [1, 2])
    await createOverlay(
      {
        file: at(`disk-${layer}.qcow2`),
        backing: layer === 1 ? 'disk-0.raw' : 'disk-1.qcow2',
        backingFormat: layer === 1 ? 'raw' : 'qcow2',
        sizeBytes: 1024 ** 2,
      },
      false,
    )
  for (const base of ['memory-1.base', 'memory-2.base']) await createHoles(at(base), ramBytes)
  await writeFile(at('device.state'), 'state')
  await writeFile(at('memory.json'), JSON.stringify({ ...manifest, ...change }))
  return directory
}

const isDamage = (error: unknown): boolean =>
  (isHypemanError(error, 'corrupt_snapshot') || isHypemanError(error, 'incompatible_version')) && /target_state Stopped/.test(error.message)

test('an image is there if and only if its manifest is', async () => {
  const directory = await image()
  assert.equal(await hasManifest(directory), true)
  assert.deepEqual(await checkedManifest(directory), manifest)
  await rm(path.join(directory, 'memory.json'))
  assert.equal(await hasManifest(directory), false)
  assert.equal(await readManifest(directory), undefined)
  await assert.rejects(checkedManifest(directory), (error) => isHypemanError(error, 'invalid_state'))
})

for (const [what, text] of [
  ['an empty manifest', ''],
  ['a manifest cut short', '{"version": 1, "base"'],
  ['a manifest of a later version', JSON.stringify({ ...manifest, version: 2 })],
  ['a base outside the directory', JSON.stringify({ ...manifest, base: '../memory-1.base' })],
  ['a layer that can not be', JSON.stringify({ ...manifest, lastLayer: -1 })],
] as const)
  test(`${what}: it counts as an image, using it is an error that says what to do, and the disks still start`, async () => {
    const directory = await image()
    await writeFile(path.join(directory, 'memory.json'), text)
    assert.equal(await driver.memory?.holdsMemory(directory), true)
    await assert.rejects(checkedManifest(directory), isDamage)
    await assert.rejects(driver.materialise(directory, await freshDirectory(), true), isDamage)

    const cold = await freshDirectory()
    await driver.materialise(directory, cold, false)
    assert.deepEqual((await readdir(cold)).toSorted(), ['disk-0.raw', 'disk-1.qcow2', 'disk-2.qcow2', 'disk-3.qcow2'])
    await driver.memory?.consumeMemory(directory)
    assert.equal(await driver.memory?.holdsMemory(directory), false)
    assert.ok((await readdir(directory)).includes('memory-2.base'), 'which base a process maps is not known')
  })

for (const [what, damage] of [
  ['the base is missing', (at: (name: string) => string) => rm(at('memory-2.base'))],
  ['the base is cut short', (at: (name: string) => string) => truncate(at('memory-2.base'), ramBytes - 1)],
  ['the device state is missing', (at: (name: string) => string) => rm(at('device.state'))],
  ['the device state is empty', (at: (name: string) => string) => truncate(at('device.state'), 0)],
  ['its disk layer is missing', (at: (name: string) => string) => rm(at('disk-1.qcow2'))],
] as const)
  test(`damage is found before anything starts: ${what}`, async () => {
    const directory = await image()
    await damage((name) => path.join(directory, name))
    await assert.rejects(checkedManifest(directory), isDamage)
    const target = await freshDirectory()
    await assert.rejects(driver.materialise(directory, target, true), isDamage)
    assert.deepEqual(await readdir(target), [])
  })

test('damage is found before anything starts: the diff is missing', async () => {
  await assert.rejects(checkedManifest(await image({ hasDiff: true })), isDamage)
})

test('an image is shared by links, with the disks of its instant and nothing later', async () => {
  const [directory, target] = [await image(), await freshDirectory()]
  await linkImage(directory, target, await checkedManifest(directory))
  assert.deepEqual((await readdir(target)).toSorted(), ['device.state', 'disk-0.raw', 'disk-1.qcow2', 'memory-2.base', 'memory.json'])
  for (const name of ['device.state', 'disk-1.qcow2', 'memory-2.base']) assert.equal((await stat(path.join(target, name))).nlink, 2)
  // Whoever starts from it maps its base, not the one that its writer mapped.
  assert.deepEqual(await readManifest(target), { ...manifest, mapped: 'memory-2.base' })
})

test("without memory the disks are the image's, and without an image the last there are", async () => {
  const directory = await image()
  assert.equal(await lastLayerOf(directory), 1)
  const payload = await freshDirectory()
  await driver.share(directory, payload, false)
  assert.deepEqual((await readdir(payload)).toSorted(), ['disk-0.raw', 'disk-1.qcow2'])
  await removeImage(directory)
  assert.equal(await lastLayerOf(directory), 2)
})

test('removing an image keeps the base that a process maps; removing it again is no error', async () => {
  const directory = await image()
  await writeFile(path.join(directory, 'memory.diff'), 'left over')
  await removeImage(directory)
  await removeImage(directory)
  assert.deepEqual((await readdir(directory)).toSorted(), ['disk-0.raw', 'disk-1.qcow2', 'disk-2.qcow2', 'memory-1.base'])
  await removeBases(directory)
  assert.ok(!(await readdir(directory)).includes('memory-1.base'))
})

test('an image that was used up leaves its base alone, which the process maps', async () => {
  const directory = await image()
  await driver.memory?.consumeMemory(directory)
  assert.deepEqual((await readdir(directory)).toSorted(), ['disk-0.raw', 'disk-1.qcow2', 'disk-2.qcow2', 'memory-2.base'])
})

test('memory for a cold start is holes, in place of all memory that was there; shared files stay with the others', async () => {
  const directory = await image()
  const elsewhere = path.join(await freshDirectory(), 'memory-2.base')
  await link(path.join(directory, 'memory-2.base'), elsewhere)
  assert.equal(await createColdMemory(directory, ramBytes), 'memory-0.base')
  assert.deepEqual((await readdir(directory)).toSorted(), ['disk-0.raw', 'disk-1.qcow2', 'disk-2.qcow2', 'memory-0.base'])
  const { size, blocks } = await stat(path.join(directory, 'memory-0.base'))
  assert.deepEqual([size, blocks], [ramBytes, 0])
  assert.equal((await stat(elsewhere)).size, ramBytes)
})
