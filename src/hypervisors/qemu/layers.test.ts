import assert from 'node:assert/strict'
import { copyFile, link, mkdir, mkdtemp, readdir, rename, rm, stat, statfs, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { dataLayout } from '../../files/layout.ts'
import { makeDataDirectories } from '../../files/stage.ts'
import { diskMissing, mountDisk } from '../../../tests/support/loop-disk.ts'
import { run } from '../../../tests/support/command.ts'
import {
  addLayer,
  createBase,
  emptyLayerOver,
  exportRaw,
  importRaw,
  joinLayers,
  lastLayer,
  layerName,
  linkLayers,
  writableLayer,
} from './layers.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'layers-'))
after(() => rm(root, { recursive: true }))
const layout = dataLayout(path.join(root, 'data'))
await makeDataDirectories(layout)

const diskBytes = 16 * 1024 ** 2
let count = 0
async function freshDirectory(): Promise<string> {
  const directory = path.join(root, `d${(count += 1)}`)
  await mkdir(directory)
  return directory
}

async function tool(command: string, args: readonly string[], cwd: string): Promise<string> {
  const { code, stdout, stderr } = await run(command, args, { cwd })
  assert.equal(code, 0, `${command} ${args.join(' ')}: ${stdout}${stderr}`)
  return stdout
}

/** Writes a pattern into 64 KiB blocks of a layer, as a guest would. */
async function writeBlocks(directory: string, layer: number, pattern: number, ...blocks: number[]): Promise<void> {
  const writes = blocks.flatMap((block) => ['-c', `write -P ${pattern} ${block * 64}k 64k`])
  await tool('qemu-io', ['-f', 'qcow2', ...writes, layerName(layer)], directory)
}

/** A chain of `layers` layers over an empty disk; each wrote a block of its own and block 0. */
async function chain(layers: number): Promise<string> {
  const directory = await freshDirectory()
  await createBase(layout, directory, diskBytes)
  for (let layer = 1; layer <= layers; layer += 1) {
    await addLayer(directory, layer - 1)
    await writeBlocks(directory, layer, layer, 0, 20 + layer)
  }
  return directory
}

/** A chain long enough to be joined, made once; tests link or copy it. */
const longChain = await chain(13)

/** What a guest would see, as a raw file outside the directory. */
async function contentOf(directory: string, layer: number): Promise<string> {
  const file = path.join(root, `content-${(count += 1)}.raw`)
  await tool('qemu-img', ['convert', '-f', layer === 0 ? 'raw' : 'qcow2', '-O', 'raw', layerName(layer), file], directory)
  return file
}

async function assertContent(directory: string, expected: string): Promise<void> {
  const last = lastLayer(directory)
  await tool('qemu-img', ['compare', '-f', last === 0 ? 'raw' : 'qcow2', '-F', 'raw', layerName(last), expected], directory)
  if (last > 0) await tool('qemu-img', ['check', '-q', layerName(last)], directory)
}

test('a disk is made once a size, whole even when it is small, and linked from then on', async () => {
  for (const sizeBytes of [16, 40, 200].map((mib) => mib * 1024 ** 2)) {
    const [one, other] = [await freshDirectory(), await freshDirectory()]
    await createBase(layout, one, sizeBytes)
    await createBase(layout, other, sizeBytes)
    const [first, second] = await Promise.all([one, other].map((directory) => stat(path.join(directory, layerName(0)))))
    assert.equal(first?.ino, second?.ino)
    assert.equal(first?.size, sizeBytes)
    assert.ok((first?.blocks ?? Infinity) * 512 < sizeBytes / 4, 'sparse')
    await tool('e2fsck', ['-f', '-n', layerName(0)], one)
  }
  assert.deepEqual(await readdir(layout.staging), [])
})

test('a chain made of layers reads as each layer left it', async () => {
  const directory = await chain(3)
  const info = JSON.parse(await tool('qemu-img', ['info', '--backing-chain', '--output=json', layerName(3)], directory)) as {
    'backing-filename'?: string
    'virtual-size': number
  }[]
  assert.deepEqual(
    info.map((one) => [one['backing-filename'], one['virtual-size']]),
    [
      ['disk-2.qcow2', diskBytes],
      ['disk-1.qcow2', diskBytes],
      ['disk-0.raw', diskBytes],
      [undefined, diskBytes],
    ],
  )
  await tool('qemu-io', ['-r', '-c', 'read -P 3 0 64k', '-c', 'read -P 1 1344k 64k', layerName(3)], directory)
})

test('a layer that others link to is never opened for writing, and neither is the base', async () => {
  const directory = await chain(0)
  assert.equal(await writableLayer(directory), layerName(1))
  assert.equal(await writableLayer(directory), layerName(1))
  const snapshot = await freshDirectory()
  await linkLayers(directory, snapshot, 1)
  assert.equal(await writableLayer(directory), layerName(2))
  assert.deepEqual((await readdir(snapshot)).toSorted(), ['disk-0.raw', 'disk-1.qcow2'])
})

test('an empty layer is used again; one that was written, linked, or lies under another is replaced', async () => {
  const directory = await chain(1)
  assert.equal(await emptyLayerOver(directory, 1), layerName(2))
  const { ino } = await stat(path.join(directory, layerName(2)))
  assert.equal(await emptyLayerOver(directory, 1), layerName(2))
  assert.equal((await stat(path.join(directory, layerName(2)))).ino, ino)

  const isReplaced = async (): Promise<void> => {
    const before = await contentOf(directory, 1)
    assert.equal(await emptyLayerOver(directory, 1), layerName(2))
    assert.deepEqual((await readdir(directory)).toSorted(), ['disk-0.raw', 'disk-1.qcow2', 'disk-2.qcow2'])
    await assertContent(directory, before)
  }
  await writeBlocks(directory, 2, 9, 5)
  await isReplaced()
  const elsewhere = path.join(await freshDirectory(), 'kept')
  await link(path.join(directory, layerName(2)), elsewhere)
  await isReplaced()
  assert.equal((await stat(elsewhere)).nlink, 1)
  await addLayer(directory, 2)
  await isReplaced()
})

test('a layer that a crash left half written never has a name of the chain', async () => {
  const directory = await chain(1)
  await writeFile(path.join(directory, `${layerName(2)}.tmp`), 'QFI')
  assert.equal(lastLayer(directory), 1)
  await addLayer(directory, 1)
  assert.deepEqual((await readdir(directory)).toSorted(), ['disk-0.raw', 'disk-1.qcow2', 'disk-2.qcow2'])
})

test('a file that is no layer under a layer to be is told by name, and nothing is made', async () => {
  const directory = await chain(1)
  await writeFile(path.join(directory, layerName(1)), 'rubbish, but longer than a header needs to be')
  await assert.rejects(addLayer(directory, 1), /disk-1\.qcow2 is damaged/)
  assert.deepEqual((await readdir(directory)).toSorted(), ['disk-0.raw', 'disk-1.qcow2'])
})

test('a short chain stays as it is; what a cut-off join left is removed', async () => {
  const directory = await chain(2)
  await writeFile(path.join(directory, 'disk-joined.tmp'), 'half')
  await joinLayers(directory, 2)
  assert.deepEqual((await readdir(directory)).toSorted(), ['disk-0.raw', 'disk-1.qcow2', 'disk-2.qcow2'])
})

test('a long chain becomes one layer that reads the same, and what others link to stays', async () => {
  const directory = await freshDirectory()
  await linkLayers(longChain, directory, 13)
  const expected = await contentOf(directory, 13)
  const snapshot = await freshDirectory()
  await linkLayers(directory, snapshot, 7)
  const kept = await contentOf(snapshot, 7)
  await joinLayers(directory, 13)
  assert.deepEqual((await readdir(directory)).toSorted(), ['disk-0.raw', 'disk-13.qcow2'])
  await assertContent(directory, expected)
  await assertContent(snapshot, kept)
  assert.equal(await writableLayer(directory), layerName(13))
  await addLayer(directory, 13)
  await assertContent(directory, expected)
})

test('layers are joined under one that stays as it is', async () => {
  const directory = await freshDirectory()
  await linkLayers(longChain, directory, 13)
  await addLayer(directory, 13)
  await writeBlocks(directory, 14, 99, 0, 50)
  const expected = await contentOf(directory, 14)
  const { ino } = await stat(path.join(directory, layerName(14)))
  await joinLayers(directory, 13)
  assert.deepEqual((await readdir(directory)).toSorted(), ['disk-0.raw', 'disk-13.qcow2', 'disk-14.qcow2'])
  assert.equal((await stat(path.join(directory, layerName(14)))).ino, ino)
  await assertContent(directory, expected)
})

test('a disk that is taken out and put in elsewhere holds what it held', async () => {
  const expected = await contentOf(longChain, 13)
  const [directory, file] = [await freshDirectory(), path.join(root, 'taken-out.raw')]
  await exportRaw(longChain, file, new AbortController().signal)
  assert.ok((await stat(file)).blocks * 512 < diskBytes / 2)
  await importRaw(directory, file)
  await assertContent(directory, expected)
  assert.equal(await writableLayer(directory), layerName(1))
})

test('a join that was cut off at any point leaves a disk that reads the same, and is taken up again', async () => {
  const expected = await contentOf(longChain, 13)
  const joinedElsewhere = await freshDirectory()
  await linkLayers(longChain, joinedElsewhere, 13)
  await joinLayers(joinedElsewhere, 13)
  const joined = path.join(joinedElsewhere, layerName(13))

  // What each step of a join leaves behind, in their order.
  const steps: readonly ((directory: string) => Promise<void>)[] = [
    (directory) => copyFile(joined, path.join(directory, 'disk-joined.tmp')),
    (directory) => rename(path.join(directory, 'disk-joined.tmp'), path.join(directory, layerName(13))),
    ...Array.from({ length: 12 }, (_, index) => (directory: string) => rm(path.join(directory, layerName(index + 1)))),
  ]
  for (const done of [1, 2, 3, 8, 14]) {
    const directory = await freshDirectory()
    await linkLayers(longChain, directory, 13)
    for (const step of steps.slice(0, done)) await step(directory)
    await assertContent(directory, expected)
    await joinLayers(directory, 13)
    await assertContent(directory, expected)
    assert.ok(!(await readdir(directory)).includes('disk-joined.tmp'))
  }
})

test('a join that is aborted leaves the chain as it was', async () => {
  const directory = await freshDirectory()
  await linkLayers(longChain, directory, 13)
  const before = await readdir(directory)
  await assert.rejects(joinLayers(directory, 13, AbortSignal.abort(new Error('enough'))), /enough/)
  assert.deepEqual(await readdir(directory), before)
})

test('a disk that is too full to join its layers is used as it is', { skip: diskMissing('ext4') }, async () => {
  await using disk = await mountDisk('ext4', 48)
  const directory = path.join(disk.path, 'd')
  await tool('cp', ['-r', '--sparse=always', longChain, directory], root)
  const expected = await contentOf(directory, 13)
  const before = (await readdir(directory)).toSorted()
  await disk.fill(100_000)
  await joinLayers(directory, 13)
  assert.deepEqual((await readdir(directory)).toSorted(), before)
  await assertContent(directory, expected)
  await assert.rejects(
    disk.fill(0).then(() => addLayer(directory, 13)),
    /no space left/,
  )
  assert.deepEqual((await readdir(directory)).toSorted(), before)
  await disk.freeUp()
  await joinLayers(directory, 13)
  await assertContent(directory, expected)
  assert.deepEqual((await readdir(directory)).toSorted(), ['disk-0.raw', 'disk-13.qcow2'])
})

for (const kind of ['xfs', 'btrfs'] as const)
  test(`where files share blocks, a join takes next to no room: ${kind}`, { skip: diskMissing(kind) }, async () => {
    await using disk = await mountDisk(kind, 320)
    const directory = path.join(disk.path, 'd')
    await tool('cp', ['-r', '--sparse=always', longChain, directory], root)
    await tool('qemu-io', ['-f', 'qcow2', '-c', 'write -P 7 1M 12M', layerName(13)], directory)
    const expected = await contentOf(directory, 13)
    // Others keep the layers, so the join frees nothing.
    await mkdir(`${directory}-kept`)
    await linkLayers(directory, `${directory}-kept`, 13)
    await tool('sync', ['-f', directory], root)
    const { bavail, bsize } = await statfs(disk.path)
    await joinLayers(directory, 13)
    await tool('sync', ['-f', directory], root)
    const taken = (bavail - (await statfs(disk.path)).bavail) * bsize
    assert.ok(taken < 4 * 1024 ** 2, `${taken} bytes`)
    await assertContent(directory, expected)
    assert.deepEqual((await readdir(directory)).toSorted(), ['disk-0.raw', 'disk-13.qcow2'])
  })
