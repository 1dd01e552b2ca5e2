import assert from 'node:assert/strict'
import { mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, truncate, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { linkTree, treeSize } from './tree.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'tree-'))
after(() => rm(root, { recursive: true }))

test('a tree of regular files is linked whole, and links out of it are left out', async () => {
  const [source, target] = [path.join(root, 'a'), path.join(root, 'b')]
  await mkdir(path.join(source, 'deep/er'), { recursive: true })
  await writeFile(path.join(source, 'deep/er/file'), 'x')
  await symlink('/etc/passwd', path.join(source, 'link'))
  await linkTree(source, target)
  assert.equal(await readFile(path.join(target, 'deep/er/file'), 'utf8'), 'x')
  assert.equal((await stat(path.join(target, 'deep/er/file'))).nlink, 2)
  assert.deepEqual(await readdir(target), ['deep'])
})

test('a missing tree is an empty one', async () => {
  await linkTree(path.join(root, 'none'), path.join(root, 'made'))
  assert.deepEqual(await readdir(path.join(root, 'made')), [])
  assert.deepEqual(await treeSize(path.join(root, 'none')), { sizeBytes: 0, allocatedBytes: 0 })
})

test('sizes count holes, and what is on disk does not', async () => {
  const directory = path.join(root, 'sizes')
  await mkdir(path.join(directory, 'below'), { recursive: true })
  await writeFile(path.join(directory, 'sparse'), 'x')
  await truncate(path.join(directory, 'sparse'), 1024 ** 3)
  await writeFile(path.join(directory, 'below/small'), 'xyz')
  const { sizeBytes, allocatedBytes } = await treeSize(directory)
  assert.equal(sizeBytes, 1024 ** 3 + 3)
  assert.ok(allocatedBytes > 0 && allocatedBytes < 1024 ** 2)
})
