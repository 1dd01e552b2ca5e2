// System disks as raw files: who may write to which, what a copy shares, and parts behind what is there.

import assert from 'node:assert/strict'
import { mkdir, mkdtemp, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { run } from '../../tests/support/command.ts'
import { diskMissing, mountDisk } from '../../tests/support/loop-disk.ts'
import { isHypemanError } from '../api/errors.ts'
import { dataLayout } from '../files/layout.ts'
import { makeDataDirectories } from '../files/stage.ts'
import { filesIn } from '../../tests/support/driver-host.ts'
import {
  addDiskParts,
  createDisk,
  diskName,
  diskNumber,
  diskOver,
  exportDisk,
  growDisk,
  importDisk,
  keepDisk,
  lastDisk,
  linkDisk,
  ownDisk,
} from './raw-disks.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'raw-'))
after(() => rm(root, { recursive: true }))
const layout = dataLayout(path.join(root, 'data'))
await makeDataDirectories(layout)
const never = new AbortController().signal
const MIB = 1024 ** 2
let count = 0

async function directory(): Promise<string> {
  const made = layout.instance(`d${(count += 1)}`)
  await mkdir(made)
  return made
}

async function isExt4(file: string, offsetBytes: number, sizeBytes: number): Promise<void> {
  const copy = path.join(root, `part-${(count += 1)}`)
  await writeFile(copy, (await readFile(file)).subarray(offsetBytes, offsetBytes + sizeBytes))
  const { code, stdout, stderr } = await run('e2fsck', ['-fn', copy], { cwd: root })
  assert.equal(code, 0, stdout + stderr)
}

test('names and numbers of disks go together, and other names are none', () => {
  for (const number of [0, 1, 12]) assert.equal(diskNumber(diskName(number)), number)
  for (const name of ['disk-01.raw', 'disk-.raw', 'disk-1.raw.tmp', 'disk-1.qcow2', 'memory.json', 'disk-1.raw2'])
    assert.equal(diskNumber(name), undefined)
})

test('a new disk is an empty file system that machines share until they start; the first start makes a copy that takes little room', async () => {
  const [one, other] = [await directory(), await directory()]
  await createDisk(layout, one, 64 * MIB)
  await createDisk(layout, other, 64 * MIB)
  assert.equal((await stat(path.join(one, 'disk-0.raw'))).ino, (await stat(path.join(other, 'disk-0.raw'))).ino)
  assert.equal(await ownDisk(one, never), 1)
  assert.deepEqual(await filesIn(one), ['disk-1.raw'])
  const made = await stat(path.join(one, 'disk-1.raw'))
  assert.deepEqual([made.size, made.nlink], [64 * MIB, 1])
  assert.ok(made.blocks * 512 < 20 * MIB, `${made.blocks} blocks`)
  await isExt4(path.join(one, 'disk-1.raw'), 0, 64 * MIB)
  assert.equal(await ownDisk(one, never), 1, 'its own disk stays as it is')
  assert.deepEqual(await filesIn(other), ['disk-0.raw'])
})

test('a disk that others link to is copied before it is written, and theirs stays as it was', async () => {
  const [machine, payload] = [await directory(), await directory()]
  await writeFile(path.join(machine, 'disk-3.raw'), 'frozen')
  await linkDisk(machine, 3, payload)
  assert.equal(await ownDisk(machine, never), 4)
  await writeFile(path.join(machine, 'disk-4.raw'), 'changed')
  assert.deepEqual(await filesIn(machine), ['disk-4.raw'])
  assert.equal(await readFile(path.join(payload, 'disk-3.raw'), 'utf8'), 'frozen')
})

test('a copy over a disk replaces what lay above it, also half of one', async () => {
  const machine = await directory()
  for (const [name, text] of Object.entries({
    'disk-1.raw': 'frozen',
    'disk-2.raw': 'old',
    'disk-5.raw': 'older',
    'disk-2.raw.tmp': 'half',
  }))
    await writeFile(path.join(machine, name), text)
  assert.equal(await diskOver(machine, 1, never), 2)
  assert.deepEqual(await filesIn(machine), ['disk-1.raw', 'disk-2.raw'])
  assert.equal(await readFile(path.join(machine, 'disk-2.raw'), 'utf8'), 'frozen')
  await keepDisk(machine, 2)
  assert.deepEqual(await filesIn(machine), ['disk-2.raw'])
})

test('a copy that is called off leaves the directory without it', async () => {
  const machine = await directory()
  await writeFile(path.join(machine, 'disk-1.raw'), 'frozen')
  await assert.rejects(diskOver(machine, 1, AbortSignal.abort(new Error('enough'))), /enough/)
  assert.deepEqual(await filesIn(machine), ['disk-1.raw'])
})

test('parts are file systems of their own behind the disk, which stays as it is; they can be taken back', async () => {
  const machine = await directory()
  await createDisk(layout, machine, 16 * MIB)
  const before = await readFile(path.join(machine, 'disk-0.raw'))
  const added = await addDiskParts(layout, machine, [8 * MIB, 4 * MIB])
  assert.deepEqual(added.parts, [
    { offsetBytes: 16 * MIB, sizeBytes: 8 * MIB },
    { offsetBytes: 24 * MIB, sizeBytes: 4 * MIB },
  ])
  const longer = path.join(machine, 'disk-1.raw')
  assert.ok((await readFile(longer)).subarray(0, 16 * MIB).equals(before))
  assert.equal((await stat(longer)).size, 28 * MIB)
  for (const { offsetBytes, sizeBytes } of added.parts) await isExt4(longer, offsetBytes, sizeBytes)
  assert.deepEqual(await filesIn(layout.staging), [])
  await added[Symbol.asyncDispose]()
  assert.deepEqual(await filesIn(machine), ['disk-0.raw'])
})

test('a disk is made longer in a copy, with what is on it, and never shorter; that can be taken back', async () => {
  const machine = await directory()
  await createDisk(layout, machine, 16 * MIB)
  const before = await readFile(path.join(machine, 'disk-0.raw'))
  const grown = await growDisk(layout, machine, 24 * MIB)
  const longer = await readFile(path.join(machine, 'disk-1.raw'))
  assert.deepEqual([longer.length, longer.subarray(0, 16 * MIB).equals(before)], [24 * MIB, true])
  await growDisk(layout, machine, 20 * MIB)
  assert.deepEqual(await filesIn(machine), ['disk-0.raw', 'disk-1.raw'])
  assert.deepEqual(await filesIn(layout.staging), [])
  await grown[Symbol.asyncDispose]()
  assert.deepEqual(await filesIn(machine), ['disk-0.raw'])
})

test('a disk leaves as one file, without a copy, and comes as the only one', async () => {
  const [machine, other] = [await directory(), await directory()]
  await writeFile(path.join(machine, 'disk-2.raw'), 'begin')
  await truncate(path.join(machine, 'disk-2.raw'), 32 * MIB)
  const file = path.join(layout.staging, 'exported.raw')
  await exportDisk(machine, await lastDisk(machine), file, never)
  const { size, ino } = await stat(file)
  assert.deepEqual([size, ino], [32 * MIB, (await stat(path.join(machine, 'disk-2.raw'))).ino])
  await importDisk(other, file)
  assert.deepEqual(await filesIn(other), ['disk-0.raw'])
  assert.equal((await readFile(path.join(other, 'disk-0.raw'), 'latin1')).slice(0, 5), 'begin')
})

test('a disk that leaves for another file system is a copy with its holes', { skip: diskMissing('tmpfs') }, async () => {
  await using other = await mountDisk('tmpfs', 16)
  const machine = await directory()
  await writeFile(path.join(machine, 'disk-2.raw'), 'begin')
  await truncate(path.join(machine, 'disk-2.raw'), 32 * MIB)
  const file = path.join(other.path, 'exported.raw')
  await exportDisk(machine, 2, file, never)
  const { size, blocks } = await stat(file)
  assert.equal(size, 32 * MIB)
  assert.ok(blocks * 512 < MIB)
})

test('a directory without a disk is told', async () => {
  await assert.rejects(lastDisk(await directory()), (error) => isHypemanError(error, 'conflict') && /is missing/.test(error.message))
})
