import assert from 'node:assert/strict'
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { dataLayout } from './layout.ts'
import { isHypemanError } from '../api/errors.ts'
import { run } from '../../tests/support/command.ts'
import { diskMissing, mountDisk, type PowerCut } from '../../tests/support/loop-disk.ts'
import { failingDisk, watchSyncs } from '../../tests/support/syncs.ts'
import { parseRecordText } from './record-text.ts'
import { createStaged, makeDataDirectories, makeOwnDirectory, moveToTrash, stageRecord, sweep, syncTree, writeRecord } from './stage.ts'

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
  await writeRecord(path.join(staged.path, 'record.json'), { a: 1 }, null)
  await staged.commit(layout.instance('a'))
  assert.deepEqual(parseRecordText(await readFile(path.join(layout.instance('a'), 'record.json'), 'utf8'), true), { a: 1 })
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
  await Promise.all([1, 2, 3].map((n) => writeRecord(file, { n, filler: 'x'.repeat(10_000) }, null)))
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
  const { swept, left } = await sweep(layout)
  assert.deepEqual([swept.toSorted(), left], [['a', 'c'], []])
  assert.deepEqual(await readdir(layout.staging), [])
})

test('a commit whose last sync fails is none: the name is free and nothing is left', async () => {
  const layout = await freshLayout()
  let asked = 0
  // The staging area is asked for when the directory is made and when its names are synced.
  const failing = {
    ...layout,
    get staging() {
      return (asked += 1) === 1 ? layout.staging : path.join(layout.root, 'gone')
    },
  }
  {
    await using staged = await createStaged(failing, 'x')
    await stageRecord(path.join(staged.path, 'record.json'), {})
    await assert.rejects(staged.commit(layout.instance('a')), { code: 'ENOENT' })
  }
  assert.deepEqual([...(await readdir(layout.instances)), ...(await readdir(layout.staging))], [])
})

test('a removal whose sync fails is none: what was to be removed is in its place', async (t) => {
  const layout = await freshLayout()
  await mkdir(layout.volume('v'))
  await writeFile(path.join(layout.volume('v'), 'disk'), 'x')
  await watchSyncs(t, (file) => {
    if (file === layout.volumes) throw failingDisk()
  })
  await assert.rejects(moveToTrash(layout, layout.volume('v')), (error) => isHypemanError(error, 'storage_unsuitable'))
  assert.deepEqual(await readdir(layout.volume('v')), ['disk'])
  assert.deepEqual(await readdir(layout.trash), [])
})

test('neither the data directory nor one of its parts is ever removed', async () => {
  const layout = await freshLayout()
  await writeFile(path.join(layout.instances, 'kept'), 'x')
  // An empty id names the directory of all.
  for (const target of [
    layout.root,
    layout.instances,
    layout.instance(''),
    layout.images,
    layout.image(''),
    layout.trash,
    `${layout.root}/x/..`,
  ])
    await assert.rejects(moveToTrash(layout, target), /data directory/)
  assert.deepEqual(await readdir(layout.instances), ['kept'])
})

test('a part of the data directory that is a link is refused at start, and what it leads to is not swept', async () => {
  const layout = await freshLayout()
  const outside = path.join(root, 'elsewhere')
  await mkdir(outside)
  await writeFile(path.join(outside, 'precious'), 'x')
  await rm(layout.staging, { recursive: true })
  await symlink(outside, layout.staging)
  await assert.rejects(
    makeDataDirectories(layout),
    (error) => isHypemanError(error, 'storage_unsuitable') && /staging is a link/.test(error.message),
  )
  assert.deepEqual(await readdir(outside), ['precious'])
})

test('a part of the data directory on another filesystem is refused at start', { skip: diskMissing('tmpfs') }, async () => {
  await using disk = await mountDisk('tmpfs', 1)
  const layout = { ...dataLayout(path.join(root, 'parted')), volumes: disk.path }
  await assert.rejects(
    makeDataDirectories(layout),
    (error) => isHypemanError(error, 'storage_unsuitable') && /another filesystem/.test(error.message),
  )
})

test('every directory that is new when a server starts is synced into its parent', async (t) => {
  const layout = dataLayout(path.join(root, String((count += 1))))
  const synced: string[] = []
  await watchSyncs(t, (file) => void synced.push(file))
  await makeDataDirectories(layout)
  for (const parent of [root, layout.root, layout.images]) assert.ok(synced.includes(parent), parent)
  synced.length = 0
  await makeOwnDirectory(path.join(layout.registry, 'blobs'))
  await makeOwnDirectory(path.join(layout.registry, 'blobs'))
  assert.deepEqual(synced, [layout.registry])
})

test('what can not be removed keeps neither a removal nor a start from going on, and is told', { skip: diskMissing('ext4') }, async (t) => {
  await using disk = await mountDisk('ext4', 16)
  const layout = dataLayout(path.join(disk.path, 'data'))
  await makeDataDirectories(layout)
  const stubborn = path.join(layout.volume('v'), 'stubborn')
  await mkdir(layout.volume('v'))
  await writeFile(stubborn, 'x')
  assert.equal((await run('chattr', ['+i', stubborn])).code, 0)
  const warnings = t.mock.method(process, 'emitWarning', () => undefined)
  await moveToTrash(layout, layout.volume('v'))
  assert.deepEqual(await readdir(layout.volumes), [])
  assert.match(String(warnings.mock.calls[0]?.arguments[0]), /volumes\/v is removed, but still takes room/)
  await mkdir(path.join(layout.staging, 'half-made'))
  const { swept, left } = await sweep(layout)
  assert.deepEqual([swept, left.length], [['half-made'], 1])
  const [grave = { path: '' }] = left
  assert.equal((await run('chattr', ['-i', path.join(grave.path, 'stubborn')])).code, 0)
  assert.deepEqual(await sweep(layout), { swept: [path.basename(grave.path)], left: [] })
})

for (const [kind, megabytes] of [
  ['ext4', 24],
  ['xfs', 320],
  ['btrfs', 128],
] as const)
  test(
    `whenever the power is lost, things are whole or not there, and there if that was said: ${kind}`,
    { skip: diskMissing(kind) },
    async (t) => {
      await using disk = await mountDisk(kind, megabytes)
      const layout = dataLayout(path.join(disk.path, 'data'))
      const payload = Buffer.alloc(300_000, 7)
      const record = path.join(layout.cache, 'record.json')
      const instants: { readonly cut: PowerCut; readonly said: 'nothing' | 'made' | 'replaced' | 'removed' }[] = []
      let said: (typeof instants)[number]['said'] = 'nothing'
      const note = async (): Promise<void> => void instants.push({ cut: await disk.cut(), said })
      await makeDataDirectories(layout)
      await writeRecord(record, { generation: 1 }, null)
      await note()
      await watchSyncs(t, note)
      {
        await using staged = await createStaged(layout, 'instance-a')
        await mkdir(path.join(staged.path, 'guest'))
        await writeFile(path.join(staged.path, 'guest/disk'), payload)
        await stageRecord(path.join(staged.path, 'record.json'), { a: 1 })
        await staged.commit(layout.instance('a'))
      }
      said = 'made'
      await note()
      await writeRecord(record, { generation: 2 }, null)
      said = 'replaced'
      await note()
      await moveToTrash(layout, layout.instance('a'))
      said = 'removed'
      await note()
      t.mock.restoreAll()
      assert.ok(instants.length >= 12, `${instants.length} instants`)

      for (const instant of instants) {
        await disk.losePower(instant.cut)
        const there = await readdir(layout.instances)
        if (instant.said === 'nothing' || instant.said === 'replaced') assert.ok(there.length <= 1)
        else assert.deepEqual(there, instant.said === 'removed' ? [] : ['a'])
        for (const id of there) {
          assert.deepEqual(parseRecordText(await readFile(path.join(layout.instance(id), 'record.json'), 'utf8')), { a: 1 })
          assert.ok((await readFile(path.join(layout.instance(id), 'guest/disk'))).equals(payload))
        }
        const { generation } = parseRecordText(await readFile(record, 'utf8')) as { generation: number }
        if (instant.said === 'nothing') assert.equal(generation, 1)
        else if (instant.said === 'made') assert.ok(generation === 1 || generation === 2)
        else assert.equal(generation, 2)
        assert.deepEqual((await sweep(layout)).left, [])
      }
    },
  )

test('a record that can not take its name leaves no temporary file', async () => {
  const layout = await freshLayout()
  await mkdir(path.join(layout.cache, 'record.json/full'), { recursive: true })
  await assert.rejects(writeRecord(path.join(layout.cache, 'record.json'), {}, null))
  assert.deepEqual(await readdir(layout.cache), ['record.json'])
})

test('a staged record is never written over another', async () => {
  const layout = await freshLayout()
  await stageRecord(path.join(layout.cache, 'record.json'), { a: 1 })
  await assert.rejects(stageRecord(path.join(layout.cache, 'record.json'), { a: 2 }), { code: 'EEXIST' })
  assert.deepEqual(parseRecordText(await readFile(path.join(layout.cache, 'record.json'), 'utf8')), { a: 1 })
})

test('a tree with many files and links in it is synced, and a link to nowhere does no harm', async () => {
  const layout = await freshLayout()
  for (let index = 0; index < 40; index += 1) await writeFile(path.join(layout.cache, String(index)), 'x')
  await symlink('/nowhere', path.join(layout.cache, 'link'))
  await syncTree(layout.root)
  await assert.rejects(syncTree(path.join(layout.root, 'none')), { code: 'ENOENT' })
})

test('whatever little space is left, things come to be whole or not at all', { skip: diskMissing('ext4') }, async () => {
  await using disk = await mountDisk('ext4', 8)
  const layout = dataLayout(path.join(disk.path, 'data'))
  await makeDataDirectories(layout)
  const record = path.join(layout.cache, 'record.json')
  await writeRecord(record, { generation: 0 }, null)
  const filler = 'x'.repeat(20_000)
  const outcomes = { full: 0, done: 0 }
  for (let leaveBytes = 0; outcomes.done < 2; leaveBytes += 4096) {
    await disk.fill(leaveBytes)
    const name = `i-${leaveBytes}`
    const made = await attempt(async () => {
      await using staged = await createStaged(layout, name)
      await stageRecord(path.join(staged.path, 'record.json'), { filler })
      await staged.commit(layout.instance(name))
    })
    const replaced = await attempt(() => writeRecord(record, { generation: leaveBytes, filler }, null))
    await disk.freeUp()
    assert.deepEqual(await readdir(layout.staging), [])
    assert.deepEqual(await readdir(layout.instances), made ? [name] : [])
    assert.deepEqual(await readdir(layout.cache), ['record.json'])
    const { generation } = JSON.parse(await readFile(record, 'utf8')) as { generation: number }
    assert.equal(generation, replaced ? leaveBytes : 0)
    outcomes[made && replaced ? 'done' : 'full'] += 1
    await moveToTrash(layout, layout.instance(name))
    await writeRecord(record, { generation: 0 }, null)
  }
  assert.ok(outcomes.full >= 2, 'it was full, too')
})

/** True if it worked, false if the disk was full; anything else is a failure of the test. */
async function attempt(act: () => Promise<void>): Promise<boolean> {
  try {
    await act()
    return true
  } catch (error) {
    assert.ok(isHypemanError(error, 'storage_full'), String(error))
    return false
  }
}
