// Parts of a system disk: file systems of their own behind what is there, which stays as it is; all of it in layers that are shared as any other.

import assert from 'node:assert/strict'
import { mkdir, mkdtemp, readdir, rm, stat } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import fc from 'fast-check'
import { run } from '../../../tests/support/command.ts'
import { isHypemanError } from '../../api/errors.ts'
import { dataLayout } from '../../files/layout.ts'
import { makeDataDirectories } from '../../files/stage.ts'
import { partsBehind } from '../../files/disk-parts.ts'
import { addDiskParts } from './disk-parts.ts'
import { addLayer, createBase, joinLayers, lastLayer, layerName, sizeOfLayer } from './layers.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'parts-'))
after(() => rm(root, { recursive: true }))
const layout = dataLayout(path.join(root, 'data'))
await makeDataDirectories(layout)

const MIB = 1024 ** 2
let count = 0

async function tool(command: string, args: readonly string[], cwd = root): Promise<string> {
  const { code, stdout, stderr } = await run(command, args, { cwd })
  assert.equal(code, 0, `${command} ${args.join(' ')}: ${stdout}${stderr}`)
  return stdout
}

/** A directory with an empty disk and a layer into whose block 9 something was written. */
async function aDisk(): Promise<string> {
  const directory = path.join(root, `d${(count += 1)}`)
  await mkdir(directory)
  await createBase(layout, directory, 16 * MIB)
  await addLayer(directory, 0)
  await tool('qemu-io', ['-f', 'qcow2', '-c', 'write -P 7 9M 64k', layerName(1)], directory)
  return directory
}

/** What the guest sees of a stretch of its disk, as a file. */
async function stretch(directory: string, { offsetBytes, sizeBytes }: { offsetBytes: number; sizeBytes: number }): Promise<string> {
  const [whole, file] = [path.join(root, 'whole.raw'), path.join(root, `stretch-${(count += 1)}.raw`)]
  await tool('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', layerName(lastLayer(directory)), whole], directory)
  await tool('dd', ['if=whole.raw', `of=${file}`, 'bs=1024', `skip=${offsetBytes / 1024}`, `count=${sizeBytes / 1024}`, 'conv=sparse'])
  return file
}

test('parts come behind what is there, which stays; each is a whole file system of its size', async () => {
  const directory = await aDisk()
  const before = await stretch(directory, { offsetBytes: 0, sizeBytes: 16 * MIB })
  const { parts } = await addDiskParts(layout, directory, [16 * MIB, 40 * MIB + 512])
  const later = await addDiskParts(layout, directory, [16 * MIB])
  assert.deepEqual(
    [...parts, ...later.parts],
    [
      { offsetBytes: 16 * MIB, sizeBytes: 16 * MIB },
      { offsetBytes: 32 * MIB, sizeBytes: 40 * MIB },
      { offsetBytes: 72 * MIB, sizeBytes: 16 * MIB },
    ],
  )
  for (const part of [...parts, ...later.parts]) await tool('e2fsck', ['-f', '-n', await stretch(directory, part)])
  await tool('cmp', [before, await stretch(directory, { offsetBytes: 0, sizeBytes: 16 * MIB })])
  assert.equal(lastLayer(directory), 3)
  assert.ok((await stat(path.join(directory, layerName(2)))).blocks * 512 < 4 * MIB, 'what is empty takes no room')
  for (const layer of [2, 3]) await tool('qemu-img', ['check', '-q', layerName(layer)], directory)
})

test('a chain that grew in its middle is joined into one layer that reads the same', async () => {
  const directory = await aDisk()
  const { parts } = await addDiskParts(layout, directory, [16 * MIB])
  const part = parts[0] ?? assert.fail()
  for (let layer = 3; layer <= 14; layer += 1) {
    await addLayer(directory, layer - 1)
    await tool('qemu-io', ['-f', 'qcow2', '-c', `write -P ${layer} ${layer + 16}M 64k`, layerName(layer)], directory)
  }
  const whole = { offsetBytes: 0, sizeBytes: part.offsetBytes + part.sizeBytes }
  const before = await stretch(directory, whole)
  await joinLayers(directory, 14)
  assert.deepEqual((await readdir(directory)).toSorted(), [layerName(0), layerName(14)])
  await tool('cmp', [before, await stretch(directory, whole)])
  assert.equal(sizeOfLayer(directory, 14), whole.sizeBytes)
})

test('parts that are taken back, or could not be made, leave the directory as it was', async () => {
  const directory = await aDisk()
  const before = (await readdir(directory)).toSorted()
  {
    await using _taken = await addDiskParts(layout, directory, [16 * MIB])
    assert.notDeepEqual((await readdir(directory)).toSorted(), before)
  }
  assert.deepEqual((await readdir(directory)).toSorted(), before)
  // Too small for any ext4.
  await assert.rejects(
    addDiskParts(layout, directory, [16 * MIB, 1024]),
    (error) => isHypemanError(error, 'host_unavailable') && /mke2fs/.test(error.message),
  )
  assert.deepEqual((await readdir(directory)).toSorted(), before)
  assert.deepEqual(await readdir(layout.staging), [])
})

test('parts never overlap, whatever the sizes, and begin where any file system may', () => {
  const bytes = fc.integer({ min: 1024, max: 2 ** 40 })
  fc.assert(
    fc.property(bytes, fc.array(bytes, { maxLength: 20 }), (diskBytes, sizes) => {
      const { parts, endBytes } = partsBehind(diskBytes, sizes)
      let end = diskBytes
      for (const [index, { offsetBytes, sizeBytes }] of parts.entries()) {
        assert.ok(offsetBytes >= end && offsetBytes % MIB === 0 && sizeBytes % 1024 === 0)
        assert.ok(sizeBytes <= (sizes[index] ?? 0) && sizeBytes > (sizes[index] ?? 0) - 1024)
        end = offsetBytes + sizeBytes
      }
      assert.deepEqual([parts.length, endBytes], [sizes.length, end])
    }),
  )
})
