// Memory images as files in a directory: which are whole, what damage is called, what is shared, and what is left when they go.

import assert from 'node:assert/strict'
import { link, mkdir, mkdtemp, readdir, rm, stat, truncate, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { isHypemanError } from '../../api/errors.ts'
import { writeDiff } from '../../files/memory-image/diff-file.ts'
import { createHoles } from '../../files/memory-image/image.ts'
import { dataLayout } from '../../files/layout.ts'
import { createQemuDriver } from './index.ts'
import {
  checkedManifest,
  createColdMemory,
  holdsImage,
  lastLayerOf,
  linkImage,
  readWholeManifest,
  removeImage,
  removeMapped,
} from './memory.ts'
import { diffsIn } from './memory-diffs.ts'
import { createOverlay } from './qcow2.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'memory-'))
after(() => rm(root, { recursive: true }))
const ramBytes = 1024 ** 2
const manifest = { version: 2, base: 'memory-2.base', mapped: 'memory-1.base', diffs: [], ramBytes, lastLayer: 1 }
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
  assert.equal(holdsImage(directory), true)
  assert.deepEqual(await checkedManifest(directory), manifest)
  await rm(path.join(directory, 'memory.json'))
  assert.equal(holdsImage(directory), false)
  assert.equal(await readWholeManifest(directory), undefined)
  await assert.rejects(checkedManifest(directory), (error) => isHypemanError(error, 'invalid_state'))
})

for (const [what, text] of [
  ['an empty manifest', ''],
  ['a manifest cut short', '{"version": 1, "base"'],
  ['a manifest of a later version', JSON.stringify({ ...manifest, version: 3 })],
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

/** A diff of no page. */
async function writeEmptyDiff(file: string): Promise<void> {
  await writeDiff(file, ramBytes, [], [])
}

for (const name of ['memory-3.diff', 'memory-7.diff'])
  for (const [what, damage] of [
    ['missing', (file: string) => rm(file)],
    ['cut short', (file: string) => truncate(file, 63)],
    ['another file', (file: string) => writeFile(file, Buffer.alloc(4096, 'x'))],
  ] as const)
    test(`damage is found before anything starts: ${name} of two diffs is ${what}`, async () => {
      const directory = await image({ diffs: ['memory-3.diff', 'memory-7.diff'] })
      for (const diff of ['memory-3.diff', 'memory-7.diff']) await writeEmptyDiff(path.join(directory, diff))
      assert.equal((await checkedManifest(directory)).diffs.length, 2)
      await damage(path.join(directory, name))
      await assert.rejects(checkedManifest(directory), isDamage)
    })

test('an image of the first version, which has a diff or none, is read and shared like any other', async () => {
  const { diffs: _none, ...older } = manifest
  const withOne = await image()
  await writeFile(path.join(withOne, 'memory.json'), JSON.stringify({ ...older, version: 1, hasDiff: true }))
  await assert.rejects(checkedManifest(withOne), isDamage)
  await writeEmptyDiff(path.join(withOne, 'memory.diff'))
  const target = await freshDirectory()
  await linkImage(withOne, target, await checkedManifest(withOne))
  assert.deepEqual(await readWholeManifest(target), { ...manifest, mapped: 'memory-2.base', diffs: ['memory.diff'] })
  assert.ok((await readdir(target)).includes('memory.diff'))

  const withNone = await image()
  await writeFile(path.join(withNone, 'memory.json'), JSON.stringify({ ...older, version: 1, hasDiff: false }))
  assert.deepEqual(await checkedManifest(withNone), manifest)
})

test('diffs lie over each other in the order of their numbers, one without a number first', async () => {
  const directory = await freshDirectory()
  for (const name of ['memory-10.diff', 'memory-9.diff', 'memory.diff', 'memory-1.base', 'memory-x.diff'])
    await writeFile(path.join(directory, name), '')
  assert.deepEqual(diffsIn(directory), ['memory.diff', 'memory-9.diff', 'memory-10.diff'])
})

for (const [name, part] of [
  ['memory-12.diff', 'memory'],
  ['memory.diff', 'memory'],
  ['memory-1.base', 'memory'],
  ['memory.json', 'state'],
  ['memory.whole', undefined],
] as const)
  test(`${name} is ${part ?? 'no part'} of an image`, () => assert.equal(driver.partOf(name), part))

test('an image is shared by links, with the disks of its instant and nothing later', async () => {
  const diffs = ['memory-1.diff', 'memory-2.diff']
  const [directory, target] = [await image({ diffs }), await freshDirectory()]
  for (const name of [...diffs, 'memory-3.diff']) await writeEmptyDiff(path.join(directory, name))
  await linkImage(directory, target, await checkedManifest(directory))
  assert.deepEqual((await readdir(target)).toSorted(), [
    ...['device.state', 'disk-0.raw', 'disk-1.qcow2'],
    ...['memory-1.diff', 'memory-2.base', 'memory-2.diff', 'memory.json'],
  ])
  for (const name of ['device.state', 'disk-1.qcow2', 'memory-2.base', ...diffs])
    assert.equal((await stat(path.join(target, name))).nlink, 2)
  // Whoever starts from it maps its base, not the one that its writer mapped.
  assert.deepEqual(await readWholeManifest(target), { ...manifest, mapped: 'memory-2.base', diffs })
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

const disks = ['disk-0.raw', 'disk-1.qcow2', 'disk-2.qcow2']

test('removing an image keeps what a process maps and the diffs over it, which go together; removing it again is no error', async () => {
  const directory = await image()
  for (const name of ['memory-1.diff', 'memory-2.diff', 'memory.whole']) await writeFile(path.join(directory, name), 'left over')
  await removeImage(directory)
  await removeImage(directory)
  assert.deepEqual((await readdir(directory)).toSorted(), [...disks, 'memory-1.base', 'memory-1.diff', 'memory-2.diff'])
  await removeMapped(directory, 'memory-1.base', ['memory-1.diff'])
  assert.deepEqual((await readdir(directory)).toSorted(), [...disks, 'memory-1.base', 'memory-1.diff'])
  await removeMapped(directory)
  assert.deepEqual((await readdir(directory)).toSorted(), disks)
})

test('an image that was used up leaves its base, which the process maps, and its diffs alone', async () => {
  const directory = await image({ diffs: ['memory-2.diff'] })
  for (const name of ['memory-1.diff', 'memory-2.diff']) await writeFile(path.join(directory, name), 'any')
  await driver.memory?.consumeMemory(directory)
  assert.deepEqual((await readdir(directory)).toSorted(), [...disks, 'memory-2.base', 'memory-2.diff'])
})

test('memory for a cold start is holes, in place of all memory that was there; shared files stay with the others', async () => {
  const directory = await image()
  for (const name of ['memory.diff', 'memory-1.diff', 'memory.whole']) await writeFile(path.join(directory, name), 'left over')
  const elsewhere = path.join(await freshDirectory(), 'memory-2.base')
  await link(path.join(directory, 'memory-2.base'), elsewhere)
  assert.equal(await createColdMemory(directory, ramBytes), 'memory-0.base')
  assert.deepEqual((await readdir(directory)).toSorted(), ['disk-0.raw', 'disk-1.qcow2', 'disk-2.qcow2', 'memory-0.base'])
  const { size, blocks } = await stat(path.join(directory, 'memory-0.base'))
  assert.deepEqual([size, blocks], [ramBytes, 0])
  assert.equal((await stat(elsewhere)).size, ramBytes)
})
