// Digests computed in the background: order, sharing, what is remembered, and how it ends.

import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { link, mkdtemp, open, readFile, rm, truncate, utimes, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { diskMissing, mountDisk } from '../../tests/support/loop-disk.ts'
import { digestFile } from './content-digest.ts'
import { Digests } from './digests.ts'
import { seeFile, type SeenFile } from './identity.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'digests-'))
after(() => rm(root, { recursive: true }))
let count = 0

async function file(bytes: Buffer | string): Promise<string> {
  const made = path.join(root, String((count += 1)))
  await writeFile(made, bytes)
  return made
}

function seen(at: string): SeenFile {
  const found = seeFile(at)
  assert.ok(found)
  return found
}

test('a digest is that of the file, its identity goes with it, and progress is told', async () => {
  await using digests = new Digests()
  const made = await file(Buffer.alloc(128 * 1024 ** 2, 3))
  const told: number[] = []
  const result = await digests.read(made, { urgent: true, fromDisk: true, onProgress: (bytes) => told.push(bytes) })
  assert.deepEqual(result, await digestFile(made))
  assert.deepEqual(
    told,
    told.toSorted((one, other) => one - other),
  )
  assert.ok(told.length > 0)
})

test('one file is read at a time, in a thread that gives way to all others, while this one goes on; what is urgent comes first', async () => {
  await using digests = new Digests()
  const large = await file(Buffer.alloc(64 * 1024 ** 2, 5))
  const small = await file('small')
  const order: string[] = []
  let turns = 0
  const turning = setInterval(() => (turns += 1), 2)
  const read = async (name: string, at: string, urgent: boolean): Promise<void> => {
    await digests.read(at, { urgent, onProgress: () => assert.ok(niceThreads() <= 1) })
    order.push(name)
  }
  await Promise.all([read('first', large, false), read('later', large, false), read('urgent', small, true)])
  clearInterval(turning)
  assert.deepEqual(order, ['first', 'urgent', 'later'])
  assert.equal(niceThreads(), 1)
  assert.ok(turns > 20, `${turns} turns of the event loop`)
})

/** Threads of this process with the lowest priority: field 19 of proc_pid_stat(5). */
function niceThreads(): number {
  return readdirSync('/proc/self/task').filter((thread) => {
    const line = readFileSync(`/proc/self/task/${thread}/stat`, 'utf8')
    return line.slice(line.lastIndexOf(')') + 2).split(' ')[16] === '19'
  }).length
}

test('many who ask for the same contents, under whatever name, cause one reading; a new version is read again', async () => {
  await using digests = new Digests()
  const made = await file(Buffer.alloc(16 * 1024 ** 2, 9))
  const names = await Promise.all(
    Array.from({ length: 20 }, async (_, index) => {
      const name = `${made}-${index}`
      await link(made, name)
      return name
    }),
  )
  const identity = seen(made)
  const proofs = await Promise.all(names.map((name) => digests.prove(name, identity)))
  assert.deepEqual(new Set(proofs), new Set([(await digestFile(made)).digest]))
  // What is known is not read: the file may be gone.
  await rm(made)
  assert.equal(await digests.prove(made, identity), proofs[0])

  const [other = ''] = names
  await truncate(other, 1_000)
  assert.equal(digests.known(seen(other)), undefined)
  assert.notEqual(await digests.prove(other, seen(other)), proofs[0])
  digests.forget(identity)
  assert.equal(digests.known(identity), undefined)
})

test('a link more or less changes nothing about a file; writing to it does, and so does another file under its name', async () => {
  const made = await file('one')
  const before = seen(made)
  await link(made, `${made}-link`)
  const { links: _links, ...shared } = seen(made)
  assert.deepEqual({ ...shared, links: 1 }, before)
  await utimes(made, new Date(1_000), new Date(1_000))
  assert.notEqual(seen(made).modifiedNs, before.modifiedNs)
  await rm(made)
  await writeFile(made, 'two')
  const other = seen(made)
  assert.ok(other.inode !== before.inode || other.bornNs !== before.bornNs)
})

test('what is aborted ends: the file that is being read, and one that still waits', async () => {
  await using digests = new Digests()
  const large = await file('')
  await using handle = await open(large, 'r+')
  await handle.write(Buffer.alloc(96 * 1024 ** 2, 1))
  const [reading, waiting] = [new AbortController(), new AbortController()]
  const first = digests.read(large, { urgent: false, signal: reading.signal, onProgress: () => reading.abort(new Error('enough')) })
  const second = digests.read(large, { urgent: false, signal: waiting.signal })
  waiting.abort(new Error('never mind'))
  await Promise.all([assert.rejects(first, /enough/), assert.rejects(second, /never mind/)])
  await assert.rejects(digests.read(large, { urgent: true, signal: AbortSignal.abort(new Error('too late')) }), /too late/)
  assert.equal((await digests.read(await file('x'), { urgent: false })).readBytes, 1)
})

test('a file that can not be read is an error with its code, and others are read all the same', async () => {
  await using digests = new Digests()
  const good = await file('x')
  const results = await Promise.allSettled([
    digests.read(path.join(root, 'none'), { urgent: true }),
    digests.read(good, { urgent: true }),
    digests.prove(path.join(root, 'none'), seen(good)),
  ])
  assert.deepEqual(
    results.map((one) => (one.status === 'rejected' ? (one.reason as NodeJS.ErrnoException).code : one.value)),
    ['ENOENT', await digestFile(good), 'ENOENT'],
  )
})

test(
  'what rotted on the disk is found by a reading past the kernel, although the file looks as it did',
  { skip: diskMissing('ext4') },
  async () => {
    await using disk = await mountDisk('ext4', 64)
    await using digests = new Digests()
    const rotten = path.join(disk.path, 'rotten')
    const marker = `marker ${process.hrtime.bigint()}`
    await writeFile(rotten, `${marker}\n${'x'.repeat(300_000)}`, { flush: true })
    const [before, good] = [seen(rotten), await digests.read(rotten, { urgent: true, fromDisk: true })]
    await readFile(rotten)
    await using image = await open(disk.image, 'r+')
    await image.write('M', (await readFile(disk.image)).indexOf(marker))
    await image.sync()
    assert.equal((await digests.read(rotten, { urgent: true })).digest, good.digest)
    assert.notEqual((await digests.read(rotten, { urgent: true, fromDisk: true })).digest, good.digest)
    assert.deepEqual(seen(rotten), before)
  },
)

test('when the server stops, whoever waits is told', async () => {
  const digests = new Digests()
  const large = await file(Buffer.alloc(32 * 1024 ** 2, 1))
  const waiting = [1, 2].map(() => assert.rejects(digests.read(large, { urgent: false }), /stopping/))
  await digests[Symbol.asyncDispose]()
  await Promise.all(waiting)
  await assert.rejects(digests.read(large, { urgent: false }), /stopping/)
  assert.equal(niceThreads(), 0)
})
