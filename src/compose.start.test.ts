// Data directories that a server can't work with, or almost can't: it says so at the start, naming path and reason, and touches nothing.

import assert from 'node:assert/strict'
import { mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { run } from '../tests/support/command.ts'
import { aRecord } from '../tests/support/instance-context.ts'
import { diskMissing, mountDisk } from '../tests/support/loop-disk.ts'
import { aSnapshot, putInstance, putSnapshot } from '../tests/support/records.ts'
import { startServer } from '../tests/support/server.ts'
import { dataLayout } from './files/layout.ts'
import { makeDataDirectories } from './files/stage.ts'

const program = path.resolve(import.meta.dirname, '../bin/hypeman')
const scratch = await mkdtemp(path.join(os.tmpdir(), 'hypeman-start-'))
after(() => rm(scratch, { recursive: true }))

/** What a server says that must not start. */
async function refusal(dataDirectory: string): Promise<string> {
  const { code, stdout, stderr } = await run(program, ['serve', '--data-dir', dataDirectory, '--port', '0'])
  assert.equal(code, 1, stdout + stderr)
  return stderr
}

async function freshDirectory(): Promise<string> {
  return mkdtemp(path.join(scratch, 'd-'))
}

for (const area of ['staging', 'trash', 'instances', 'snapshots', 'images', 'volumes', 'kernels', 'cache'])
  test(`a link in place of ${area}/ is refused before anything is swept or read through it`, async () => {
    const [data, elsewhere] = [await freshDirectory(), await freshDirectory()]
    await writeFile(path.join(elsewhere, 'canary'), 'alive')
    await symlink(elsewhere, path.join(data, area))
    assert.match(await refusal(data), new RegExp(`${data}/${area} is a link; put a directory there`))
    assert.deepEqual(await readdir(elsewhere), ['canary'])
  })

test('a link in place of the lock is refused, and what it leads to keeps its contents', async () => {
  const [data, elsewhere] = [await freshDirectory(), await freshDirectory()]
  const file = path.join(elsewhere, 'important')
  await writeFile(file, 'contents')
  await symlink(file, path.join(data, 'lock'))
  assert.match(await refusal(data), new RegExp(`the lock ${data}/lock can't be opened \\(ELOOP\\)`))
  assert.equal(await readFile(file, 'utf8'), 'contents')
})

test('a link in place of the key is refused, and a way to keep it elsewhere is named', async () => {
  const data = await freshDirectory()
  await symlink('/etc/hostname', path.join(data, 'jwt-secret'))
  assert.match(await refusal(data), /jwt-secret is a link, which is never followed; set JWT_SECRET/)
})

test('a file in place of the data directory is refused', async () => {
  const file = path.join(await freshDirectory(), 'data')
  await writeFile(file, 'x')
  assert.match(await refusal(file), new RegExp(`the data directory ${file} is no directory`))
})

test('a data directory that is a link itself is one like any other', async () => {
  const target = await freshDirectory()
  const link = path.join(await freshDirectory(), 'data')
  await symlink(target, link)
  await makeDataDirectories(dataLayout(link))
  assert.ok((await readdir(target)).includes('instances'))
})

test('a read-only data directory is refused with its path, empty or not', { skip: diskMissing('ext4') }, async () => {
  await using disk = await mountDisk('ext4', 64)
  const data = path.join(disk.path, 'data')
  await mkdir(data)
  const used = path.join(disk.path, 'used')
  await makeDataDirectories(dataLayout(used))
  await disk.makeReadOnly()
  assert.match(await refusal(data), new RegExp(`${data}\\S* is on a read-only filesystem; remount it writable`))
  assert.match(await refusal(used), new RegExp(`${used}/lock is on a read-only filesystem; remount it writable`))
})

test(
  'on a full disk a fresh server says so; one that has everything starts, shows what is there, and deletes it',
  { skip: diskMissing('ext4') },
  async () => {
    await using disk = await mountDisk('ext4', 128)
    const data = path.join(disk.path, 'data')
    await mkdir(data)
    await disk.fill(0)
    assert.match(await refusal(data), new RegExp(`no space left to write ${data}`))
    await disk.freeUp()

    await using server = await startServer({ DATA_DIR: data })
    const layout = dataLayout(data)
    const [instance, snapshot] = [aRecord(), aSnapshot()]
    await server.stop()
    await putInstance(layout, instance)
    await putSnapshot(layout, snapshot, 32 * 1024 ** 2)
    await disk.fill(0)
    await server.restart()
    assert.match(await server.log(), /no space is left in the data directory: delete/)
    assert.deepEqual(
      (await server.client.instances.list()).map(({ id }) => id),
      [instance.id],
    )
    await server.client.snapshots.delete(snapshot.id)
    await server.client.instances.delete(instance.id)
    assert.deepEqual([await readdir(layout.instances), await readdir(layout.snapshots)], [[], []])
    assert.ok((await stat(layout.lock)).size > 0)
    await disk.freeUp()
  },
)
