import assert from 'node:assert/strict'
import { mkdtemp, readdir, rm, stat, truncate, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { run } from '../../../tests/support/command.ts'
import { createOverlay, readOverlay } from './qcow2.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'qcow2-'))
after(() => rm(root, { recursive: true }))

async function tool(command: string, args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await run(command, args, { cwd: root })
  assert.equal(code, 0, `${command} ${args.join(' ')}: ${stdout}${stderr}`)
  return stdout
}

interface Info {
  readonly 'virtual-size': number
  readonly 'backing-filename': string
  readonly 'backing-filename-format': string
  readonly 'cluster-size': number
  readonly 'format-specific': { readonly data: { readonly compat: string; readonly 'refcount-bits': number } }
}

const MIB = 1024 ** 2
for (const sizeBytes of [16 * MIB, 512 * MIB, 512 * MIB + 4096, 10 * 1024 * MIB, 5 * 1024 ** 4])
  test(`an overlay over ${sizeBytes} bytes is sound and says what qemu-img's own says`, async () => {
    const base = path.join(root, 'base.raw')
    await writeFile(base, '')
    await truncate(base, sizeBytes)
    const [ours, theirs] = [`ours-${sizeBytes}`, `theirs-${sizeBytes}`]
    await createOverlay({ file: path.join(root, ours), backing: 'base.raw', backingFormat: 'raw', sizeBytes }, false)
    await tool('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', theirs])
    await tool('qemu-img', ['check', '-q', ours])
    const [own, expected] = await Promise.all(
      [ours, theirs].map(async (name) => JSON.parse(await tool('qemu-img', ['info', '--output=json', name])) as Info),
    )
    assert.ok(own !== undefined && expected !== undefined)
    for (const key of ['virtual-size', 'backing-filename', 'backing-filename-format', 'cluster-size'] as const)
      assert.equal(own[key], expected[key], key)
    assert.equal(own['format-specific'].data['refcount-bits'], 16)
    assert.equal(own['format-specific'].data.compat, '1.1')
    assert.ok((await stat(path.join(root, ours))).blocks * 512 <= 64 * 1024, 'its tables are holes')

    assert.deepEqual(readOverlay(path.join(root, ours)), { sizeBytes, isEmpty: true })
    await tool('qemu-io', ['-c', 'read 0 64k', ours])
    assert.equal(readOverlay(path.join(root, ours)).isEmpty, true)
    // The last block of the disk goes through the last entry of the last table.
    await tool('qemu-io', ['-c', `write -P 7 ${sizeBytes - 4096} 4096`, '-c', `read -P 7 ${sizeBytes - 4096} 4096`, ours])
    await tool('qemu-img', ['check', '-q', ours])
    assert.equal(readOverlay(path.join(root, ours)).isEmpty, false)
    for (const name of [ours, theirs]) await rm(path.join(root, name))
  })

test('a layer is there whole or not at all', async () => {
  const directory = path.join(root, 'missing')
  await assert.rejects(
    createOverlay({ file: path.join(directory, 'disk-1.qcow2'), backing: 'disk-0.raw', backingFormat: 'raw', sizeBytes: MIB }, true),
  )
  await createOverlay({ file: path.join(root, 'disk-1.qcow2'), backing: 'disk-0.raw', backingFormat: 'raw', sizeBytes: MIB }, true)
  assert.deepEqual(
    (await readdir(root)).filter((name) => name.endsWith('.tmp')),
    [],
  )
})

test('a file that is not qcow2 is refused by name', async () => {
  for (const content of ['', 'QFI', 'x'.repeat(100)]) {
    await writeFile(path.join(root, 'bad'), content)
    assert.throws(() => readOverlay(path.join(root, 'bad')), /bad is damaged: it is not a qcow2 file/)
  }
})
