import assert from 'node:assert/strict'
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { dataLayout } from './layout.ts'
import { createStaged, makeDataDirectories, moveToTrash, sweep, writeRecord } from './stage.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'hypeman-stage-'))
after(() => rm(root, { recursive: true }))
let count = 0

async function freshLayout(): Promise<ReturnType<typeof dataLayout>> {
  const layout = dataLayout(path.join(root, String((count += 1))))
  await makeDataDirectories(layout)
  return layout
}

test('a committed directory has its final name and nothing is left staged', async () => {
  const layout = await freshLayout()
  await using staged = await createStaged(layout, 'instance-a')
  await writeRecord(path.join(staged.path, 'record.json'), { a: 1 })
  await staged.commit(layout.instance('a'))
  assert.deepEqual(JSON.parse(await readFile(path.join(layout.instance('a'), 'record.json'), 'utf8')), { a: 1 })
  assert.deepEqual(await readdir(layout.staging), [])
})

test('a directory that was not committed is gone when its flow ends', async () => {
  const layout = await freshLayout()
  {
    await using staged = await createStaged(layout, 'x')
    await writeFile(path.join(staged.path, 'file'), 'x')
  }
  assert.deepEqual(await readdir(layout.staging), [])
})

test('a commit never takes over a name that exists, not even an empty directory', async () => {
  const layout = await freshLayout()
  await mkdir(layout.instance('a'))
  await using staged = await createStaged(layout, 'x')
  await assert.rejects(staged.commit(layout.instance('a')), /exists already/)
})

test('a record is replaced whole, and no temporary file stays', async () => {
  const layout = await freshLayout()
  const file = path.join(layout.cache, 'record.json')
  await Promise.all([1, 2, 3].map((n) => writeRecord(file, { n, filler: 'x'.repeat(10_000) })))
  assert.equal(JSON.parse(await readFile(file, 'utf8')).filler.length, 10_000)
  assert.deepEqual(await readdir(layout.cache), ['record.json'])
})

test('removing follows no link, and never leaves the data directory', async () => {
  const layout = await freshLayout()
  const outside = path.join(root, 'outside')
  await mkdir(outside)
  await writeFile(path.join(outside, 'precious'), 'x')
  await mkdir(layout.volume('v'))
  await symlink(outside, path.join(layout.volume('v'), 'link'))
  await moveToTrash(layout, layout.volume('v'))
  await moveToTrash(layout, layout.volume('v'))
  assert.deepEqual(await readdir(outside), ['precious'])
  assert.deepEqual([...(await readdir(layout.volumes)), ...(await readdir(layout.trash))], [])
  await assert.rejects(moveToTrash(layout, outside), /outside the data directory/)
})

test('the sweep removes what an earlier run left staged or half removed', async () => {
  const layout = await freshLayout()
  await mkdir(path.join(layout.staging, 'a/b'), { recursive: true })
  await mkdir(path.join(layout.trash, 'c'))
  assert.deepEqual((await sweep(layout)).toSorted(), ['a', 'c'])
  assert.deepEqual(await readdir(layout.staging), [])
})
