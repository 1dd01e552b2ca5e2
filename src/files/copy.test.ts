// Copies on real filesystems: the same bytes, no more room than the source, and nothing left when they fail.

import assert from 'node:assert/strict'
import { createServer } from 'node:net'
import { mkdir, mkdtemp, open, readdir, readFile, rm, stat, statfs, symlink, truncate, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import fc from 'fast-check'
import { diskMissing, mountDisk, type DiskKind } from '../../tests/support/loop-disk.ts'
import { run } from '../../tests/support/command.ts'
import { isHypemanError } from '../api/errors.ts'
import { filesystemOf } from '../platform/host-storage.ts'
import { piecesToCopy } from './copy-extents.ts'
import { copyInThread } from './copy-job.ts'
import { copyPayload, type CopyProgress } from './copy.ts'
import { extentsOf } from './extents.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'copy-'))
after(() => rm(root, { recursive: true }))
const MIB = 1024 ** 2

/** Where tests copy, and whether files share blocks there. */
const disks: readonly { readonly kind: DiskKind; readonly megabytes: number; readonly shares: boolean }[] = [
  { kind: 'ext4', megabytes: 64, shares: false },
  { kind: 'xfs', megabytes: 320, shares: true },
  { kind: 'btrfs', megabytes: 160, shares: true },
  { kind: 'tmpfs', megabytes: 64, shares: false },
]

/** Stretches of data in a file of up to 8 MiB, most at no particular boundary, and the file's size, often with a hole at its end. */
const layout = fc.record({
  stretches: fc.array(fc.tuple(fc.nat(8 * MIB), fc.integer({ min: 1, max: 700_000 })), { maxLength: 12 }),
  tail: fc.oneof(fc.constant(0), fc.nat(3 * MIB)),
})

async function makeSparse(file: string, stretches: readonly (readonly [number, number])[], tail: number): Promise<void> {
  await using handle = await open(file, 'w')
  let end = 0
  for (const [from, length] of stretches) {
    await handle.write(Buffer.alloc(length, (from % 255) + 1), 0, length, from)
    end = Math.max(end, from + length)
  }
  await handle.truncate(end + tail)
  await handle.sync()
}

async function countExtents(file: string): Promise<number> {
  await using handle = await open(file, 'r')
  return [...extentsOf(handle.fd, (await handle.stat()).size, file)].length
}

/** By extents, as a file that is too large to be copied without the thread. */
async function copyAsLarge(source: string, target: string): Promise<void> {
  await using from = await open(source, 'r')
  await using to = await open(target, 'wx', 0o600)
  await copyInThread({ path: source, fd: from.fd }, { path: target, fd: to.fd }, { signal: undefined, copied: () => undefined })
}

async function holdsTheRules(sources: string, targets: string, clones: boolean): Promise<void> {
  const [source, target] = [path.join(sources, 'source'), path.join(targets, 'target')]
  await fc.assert(
    fc.asyncProperty(layout, fc.boolean(), async ({ stretches, tail }, large) => {
      await makeSparse(source, stretches, tail)
      if (large) await copyAsLarge(source, target)
      else assert.deepEqual(await copyPayload(source, target), { files: 1, clonedFiles: clones ? 1 : 0 })
      assert.ok((await readFile(target)).equals(await readFile(source)), 'the same bytes')
      const [from, to] = [await stat(source), await stat(target)]
      assert.deepEqual([to.size, to.mode & 0o777], [from.size, 0o600])
      const allowed = from.blocks * 512 + (await countExtents(source)) * to.blksize
      assert.ok(to.blocks * 512 <= allowed, `${to.blocks * 512} bytes on disk, at most ${allowed} are right`)
      for (const file of [source, target]) await rm(file)
    }),
    { numRuns: 30 },
  )
}

for (const { kind, megabytes, shares } of disks)
  test(`a copy has the same bytes and takes no more room than a block an extent: ${kind}`, { skip: diskMissing(kind) }, async (t) => {
    await using disk = await mountDisk(kind, megabytes)
    await holdsTheRules(disk.path, disk.path, shares)
    if (kind !== 'tmpfs') await t.test('and it is there after a loss of power', () => outlastsPower(disk))
  })

async function outlastsPower(disk: Awaited<ReturnType<typeof mountDisk>>): Promise<void> {
  const [source, target] = [path.join(disk.path, 'tree'), path.join(disk.path, 'copy')]
  await mkdir(source)
  await makeSparse(path.join(source, 'disk'), [[70_001, 300_000]], 2 * MIB)
  const expected = await readFile(path.join(source, 'disk'))
  await copyPayload(source, target)
  await copyPayload(path.join(source, 'disk'), path.join(disk.path, 'alone'))
  await disk.losePower()
  assert.ok((await readFile(path.join(target, 'disk'))).equals(expected))
  assert.ok((await readFile(path.join(disk.path, 'alone'))).equals(expected))
}

test('files that share blocks with others are copied by extents to other filesystems', { skip: diskMissing('xfs') }, async () => {
  await using disk = await mountDisk('xfs', 320)
  await holdsTheRules(disk.path, root, false)
})

test('btrfs without reflink between two of its kinds of files copies extents', { skip: diskMissing('btrfs') }, async () => {
  await using disk = await mountDisk('btrfs', 160)
  const [plain, unchecked] = [path.join(disk.path, 'plain'), path.join(disk.path, 'unchecked')]
  await mkdir(unchecked)
  assert.equal((await run('chattr', ['+C', unchecked])).code, 0)
  await makeSparse(plain, [[5 * MIB, 100_000]], MIB)
  assert.deepEqual(await copyPayload(plain, path.join(unchecked, 'copy')), { files: 1, clonedFiles: 0 })
  assert.ok((await readFile(path.join(unchecked, 'copy'))).equals(await readFile(plain)))
})

test(
  "where files share blocks, a copy takes none and is the source's no more once one of the two is written",
  { skip: diskMissing('xfs') },
  async () => {
    await using disk = await mountDisk('xfs', 320)
    const [source, target] = [path.join(disk.path, 'source'), path.join(disk.path, 'target')]
    await makeSparse(source, [[0, 30 * MIB]], 0)
    const { bavail, bsize } = await statfs(disk.path)
    await copyPayload(source, target)
    assert.ok((bavail - (await statfs(disk.path)).bavail) * bsize < MIB)
    const before = await readFile(source)
    await using handle = await open(target, 'r+')
    await handle.write(Buffer.alloc(4096, 9), 0, 4096, 8192)
    assert.ok((await readFile(source)).equals(before))
  },
)

test('a file of holes alone, an empty one, and one of five gigabytes keep their size and take no room', async () => {
  const [source, target] = [path.join(root, 'holes'), path.join(root, 'holes-copy')]
  for (const size of [0, 1, 4096, 5 * 1024 ** 3]) {
    await makeSparse(source, [], size)
    await copyPayload(source, target)
    const { size: copied, blocks } = await stat(target)
    assert.deepEqual([copied, blocks], [size, 0])
    await rm(target)
  }
  await rm(source)
})

test('a target that exists is not touched, be it a file or a directory', async () => {
  const at = (name: string): string => path.join(root, name)
  for (const name of ['one', 'two']) await writeFile(at(name), name)
  await mkdir(at('tree'))
  await writeFile(at('tree/inner'), 'inner')
  await assert.rejects(copyPayload(at('one'), at('two')), { code: 'EEXIST' })
  await assert.rejects(copyPayload(at('tree'), at('two')), { code: 'EEXIST' })
  await mkdir(at('other'))
  await assert.rejects(copyPayload(at('tree'), at('other')), { code: 'EEXIST' })
  assert.equal(await readFile(at('two'), 'utf8'), 'two')
  assert.deepEqual(await readdir(at('other')), [])
  for (const name of ['one', 'two', 'tree', 'other']) await rm(at(name), { recursive: true })
})

test('of a directory everything is copied but what belongs to a run: sockets, pipes, logs, pids, locks, files in the making', async () => {
  const source = path.join(root, 'guest')
  await mkdir(path.join(source, 'logs'), { recursive: true })
  await mkdir(path.join(source, 'parts/empty'), { recursive: true })
  for (const name of ['disk-0.raw', 'memory.json', 'parts/lockstep', 'parts/logs.txt']) await writeFile(path.join(source, name), name)
  const ofRun = ['logs/app.log', 'lock', 'vm.pid', 'parts/vmm.log', 'qmp.lock', 'disk.tmp', 'old.sock']
  for (const name of ofRun) await writeFile(path.join(source, name), 'x')
  assert.equal((await run('mkfifo', [path.join(source, 'pipe')])).code, 0)
  const server = createServer().listen(path.join(source, 'agent'))
  await using _closed = { [Symbol.asyncDispose]: async () => void server.close() }
  const reported = await copyPayload(source, path.join(root, 'copy'))
  assert.deepEqual(reported, { files: 4, clonedFiles: 0 })
  assert.deepEqual((await readdir(path.join(root, 'copy'), { recursive: true })).toSorted(), [
    ...['disk-0.raw', 'memory.json', 'parts', 'parts/empty', 'parts/lockstep', 'parts/logs.txt'],
  ])
  await rm(source, { recursive: true })
})

test('a link is never followed: neither as the source nor within it, and nothing is left', async () => {
  const [source, target] = [path.join(root, 'linked'), path.join(root, 'linked-copy')]
  await mkdir(source)
  await writeFile(path.join(source, 'file'), 'x')
  await symlink('/etc/passwd', path.join(source, 'z'))
  for (const one of [source, path.join(source, 'z')])
    await assert.rejects(copyPayload(one, target), (error) => isHypemanError(error, 'conflict') && error.message.includes('z'))
  await assert.rejects(stat(target), { code: 'ENOENT' })
})

test('progress grows from nothing to all data, over all files', async () => {
  const source = path.join(root, 'progress')
  await mkdir(source)
  await makeSparse(path.join(source, 'a'), [[0, 20 * MIB]], 40 * MIB)
  await makeSparse(path.join(source, 'b'), [[9 * MIB, 12 * MIB]], 0)
  const told: CopyProgress[] = []
  await copyPayload(source, path.join(root, 'progress-copy'), { onProgress: (progress) => told.push(progress) })
  assert.ok(told.length >= 4, `${told.length} reports`)
  assert.ok(told.every(({ doneBytes }, index) => doneBytes >= (told[index - 1]?.doneBytes ?? 0)))
  assert.deepEqual(told.at(-1), { doneBytes: 32 * MIB, totalBytes: 32 * MIB })
  for (const name of ['progress', 'progress-copy']) await rm(path.join(root, name), { recursive: true })
})

test('an abort ends a copy in the middle and leaves nothing, of a file and of a directory', async () => {
  const source = path.join(root, 'aborted')
  await mkdir(source)
  for (const name of ['a', 'b']) await makeSparse(path.join(source, name), [[0, 64 * MIB]], 0)
  const [target, small] = [path.join(root, 'aborted-copy'), path.join(root, 'small')]
  await makeSparse(small, [[0, 16 * MIB]], 0)
  for (const one of [source, path.join(source, 'a'), small]) {
    const abort = new AbortController()
    let last = 0
    const onProgress = ({ doneBytes }: CopyProgress): void => {
      last = doneBytes
      abort.abort(new Error('enough'))
    }
    await assert.rejects(copyPayload(one, target, { signal: abort.signal, onProgress }), /enough/)
    assert.ok(last < (one === small ? 16 : 64) * MIB, `ended at ${last}`)
    await assert.rejects(stat(target), { code: 'ENOENT' })
    await assert.rejects(copyPayload(one, target, { signal: abort.signal }), /enough/)
  }
  const thrown = copyPayload(source, target, {
    onProgress: () => {
      throw new Error('a listener that fails')
    },
  })
  await assert.rejects(thrown, /a listener that fails/)
  await assert.rejects(stat(target), { code: 'ENOENT' })
  await copyPayload(path.join(source, 'a'), target)
  await rm(source, { recursive: true })
  await rm(target)
})

test('a file that shrinks while it is copied is an error', async () => {
  const source = path.join(root, 'shrinking')
  await makeSparse(source, [[0, 64 * MIB]], 0)
  await using from = await open(source, 'r')
  await using to = await open(path.join(root, 'shrinking-copy'), 'wx')
  const pieces = piecesToCopy({ path: source, fd: from.fd }, { path: 'the copy', fd: to.fd })
  pieces.next()
  await truncate(source, MIB)
  assert.throws(
    () => [...pieces],
    (error) => isHypemanError(error, 'conflict') && error.message.includes(source),
  )
})

for (const { kind, megabytes } of disks)
  test(`a full disk is told as such and nothing is left on it: ${kind}`, { skip: diskMissing(kind) }, async () => {
    await using disk = await mountDisk(kind, megabytes)
    const ballast = path.join(disk.path, 'ballast')
    const { bavail, bsize } = await statfs(disk.path)
    assert.equal((await run('fallocate', ['--length', String(bavail * bsize - 3 * MIB), ballast])).code, 0)
    const before = await readdir(disk.path)
    const source = path.join(root, 'too-large')
    await mkdir(path.join(source, 'parts'), { recursive: true })
    await makeSparse(path.join(source, 'parts/a'), [[0, 4 * MIB]], 0)
    // More than is copied without the thread.
    await makeSparse(path.join(source, 'parts/b'), [[MIB, 40 * MIB]], 0)
    for (const name of ['', 'parts/a', 'parts/b'])
      await assert.rejects(copyPayload(path.join(source, name), path.join(disk.path, 'copy')), (error) =>
        isHypemanError(error, 'storage_full'),
      )
    assert.deepEqual(await readdir(disk.path), before)
    await rm(ballast)
    await copyPayload(path.join(source, 'parts/b'), path.join(disk.path, 'copy'))
    await rm(source, { recursive: true })
  })

test('a target whose holes take room is refused, with its path and filesystem, before anything is copied', async () => {
  const [source, target] = [path.join(root, 'mostly-holes'), path.join(root, 'dense')]
  await makeSparse(source, [[0, 4096]], 32 * MIB)
  // As on a filesystem without holes: the room is taken, whatever is written.
  await writeFile(target, '')
  assert.equal((await run('fallocate', ['--keep-size', '--length', '32M', target])).code, 0)
  await using from = await open(source, 'r')
  await using to = await open(target, 'r+')
  assert.throws(
    () => piecesToCopy({ path: source, fd: from.fd }, { path: target, fd: to.fd }).next(),
    (error) => isHypemanError(error, 'storage_unsuitable') && error.message.includes(`${target} (${filesystemOf(root)})`),
  )
  assert.equal(
    (await readFile(target)).findIndex((byte) => byte !== 0),
    -1,
  )
})

test('a filesystem that can not tell holes from data is refused, with its path', async () => {
  await using handle = await open('/proc/self/status', 'r')
  assert.throws(
    () => extentsOf(handle.fd, 100, '/proc/self/status').next(),
    (error) => isHypemanError(error, 'storage_unsuitable') && error.message.includes('/proc/self/status (proc)'),
  )
})

test('on a platform whose holes are not known, a copy is refused', async (t) => {
  const platform = Object.getOwnPropertyDescriptor(process, 'platform')
  const source = path.join(root, 'elsewhere')
  await writeFile(source, 'x')
  t.after(() => Object.defineProperty(process, 'platform', platform ?? {}))
  Object.defineProperty(process, 'platform', { value: 'sunos' })
  await using handle = await open(source, 'r')
  assert.throws(
    () => extentsOf(handle.fd, 1, source).next(),
    (error) => isHypemanError(error, 'storage_unsuitable') && error.message.includes('sunos'),
  )
})

test('several copies at once are all right, and the server answers meanwhile', async () => {
  const sources = await Promise.all(
    // One without the thread, two with it.
    [1, 2, 2.1].map(async (number) => {
      const file = path.join(root, `many-${number}`)
      await makeSparse(file, [[number * 5000, (number * 30 - 10) * MIB]], MIB)
      return file
    }),
  )
  let answers = 0
  const timer = setInterval(() => (answers += 1), 1)
  await Promise.all(sources.map((source) => copyPayload(source, `${source}-copy`)))
  clearInterval(timer)
  assert.ok(answers >= 10, `${answers} turns of the event loop`)
  for (const source of sources) {
    assert.ok((await readFile(`${source}-copy`)).equals(await readFile(source)))
    for (const file of [source, `${source}-copy`]) await rm(file)
  }
})

test('a program that has copied ends by itself', async () => {
  const source = path.join(root, 'large')
  await makeSparse(source, [[0, 33 * MIB]], 0)
  const module = new URL('./copy.ts', import.meta.url).href
  const program = `(await import(${JSON.stringify(module)})).copyPayload(${JSON.stringify(source)}, ${JSON.stringify(`${source}-copy`)})`
  const began = performance.now()
  const { code, stderr } = await run(process.execPath, ['--input-type=module', '-e', `await ${program}`])
  assert.equal(code, 0, stderr)
  assert.ok(performance.now() - began < 50_000, 'before the idle thread would end')
  assert.equal((await stat(`${source}-copy`)).size, 33 * MIB)
})
