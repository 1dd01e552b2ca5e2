// Images of one process after another, on files: what each writes, what lies beside the process, and that each holds its instant whatever becomes of the others.
// The process is this one, which maps a base as QEMU does.

import assert from 'node:assert/strict'
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { applyDiffs, createHoles } from '../../files/memory-image/image.ts'
import { findMapping, pageBytes } from '../../files/memory-image/private-pages.ts'
import { mapPrivately, type PrivateMapping } from '../../../tests/support/private-mapping.ts'
import { checkedManifest, finishImage, prepareSave, readWholeManifest, type MemoryManifest } from './memory.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'generations-'))
after(() => rm(root, { recursive: true }))
const MIB = 1024 ** 2
const never = new AbortController().signal
let count = 0

async function freshDirectory(): Promise<string> {
  const directory = path.join(root, String((count += 1)))
  await mkdir(directory)
  await writeFile(path.join(directory, 'device.state'), 'state')
  await writeFile(path.join(directory, 'disk-1.qcow2'), 'disk')
  return directory
}

interface Guest extends AsyncDisposable {
  readonly directory: string
  readonly ramBytes: number
  readonly memory: PrivateMapping
  /** Into a directory of its own, or the guest's. */
  save(target?: string, mostHeld?: number): Promise<Saved>
}

interface Saved {
  readonly directory: string
  readonly manifest: MemoryManifest
  readonly memoryBytes: number
  readonly expected: Buffer
}

/** Its base has data in its first page. */
async function startGuest(ramBytes: number): Promise<Guest> {
  const directory = await freshDirectory()
  const base = path.join(directory, 'memory-1.base')
  await createHoles(base, ramBytes)
  await writeFile(base, 'base', { flag: 'r+' })
  const memory = mapPrivately(base, ramBytes)
  return {
    directory,
    ramBytes,
    memory,
    async save(given, mostHeld) {
      const target = given ?? (await freshDirectory())
      const save = await prepareSave({
        pid: process.pid,
        ramBytes,
        source: directory,
        target,
        running: given === undefined,
        signal: never,
        ...(mostHeld === undefined ? {} : { mostHeld }),
      })
      const saved = await save(never)
      const expected = Buffer.from(memory.bytes)
      const { memoryBytes } = await finishImage(saved, directory, target, 1, never)
      return { directory: target, manifest: await checkedManifest(target), memoryBytes, expected }
    },
    async [Symbol.asyncDispose]() {
      memory[Symbol.dispose]()
      await rm(directory, { recursive: true })
    },
  }
}

const memoryFiles = async (directory: string): Promise<string[]> =>
  (await readdir(directory)).filter((name) => name.startsWith('memory')).toSorted()

/** What a process would have that starts from the image. */
async function assertHolds({ directory, manifest, expected }: Saved): Promise<void> {
  const { base, diffs, ramBytes } = await checkedManifest(directory)
  assert.deepEqual({ base, diffs }, { base: manifest.base, diffs: manifest.diffs })
  const copy = path.join(root, `again-${(count += 1)}`)
  await copyFile(path.join(directory, base), copy)
  using mapped = mapPrivately(copy, ramBytes)
  const mapping = await findMapping(process.pid, new RegExp(`^${path.basename(copy)}$`), ramBytes)
  await applyDiffs(
    diffs.map((name) => path.join(directory, name)),
    mapping,
  )
  assert.ok(mapped.bytes.equals(expected))
  await rm(copy)
}

function fill(guest: Guest, text: string, first: number, pages: number): void {
  guest.memory.bytes.fill(text, first * pageBytes, (first + pages) * pageBytes)
}

/** Each writes a hundred pages, some of them those of the one before. */
async function threeGenerations(guest: Guest): Promise<Saved[]> {
  const all: Saved[] = []
  for (const generation of [1, 2, 3]) {
    fill(guest, `generation ${generation}`, generation * 90, 100)
    all.push(await guest.save())
  }
  return all
}

const CHANGED_BYTES = 100 * pageBytes
const HEADER_BYTES = pageBytes

test('each image takes what was written since the last one, and all are shared by links', async () => {
  await using guest = await startGuest(4 * MIB)
  const all = await threeGenerations(guest)
  const names = ['memory-1.diff', 'memory-2.diff', 'memory-3.diff']
  for (const [index, saved] of all.entries()) {
    assert.deepEqual(saved.manifest.diffs, names.slice(0, index + 1))
    assert.deepEqual(await memoryFiles(saved.directory), ['memory-1.base', ...names.slice(0, index + 1), 'memory.json'])
    assert.ok(saved.memoryBytes <= CHANGED_BYTES + HEADER_BYTES)
    assert.equal(saved.memoryBytes, (await stat(path.join(saved.directory, names[index] ?? ''))).size)
    await assertHolds(saved)
  }
  // The guest's directory has them, too.
  for (const [index, name] of names.entries()) assert.equal((await stat(path.join(guest.directory, name))).nlink, 4 - index)
})

for (const order of [
  [0, 1, 2],
  [2, 0, 1],
  [1, 2, 0],
])
  test(`images that are removed in the order ${order.join(', ')} leave the others whole, and the next one as small`, async () => {
    await using guest = await startGuest(4 * MIB)
    const all = await threeGenerations(guest)
    const left = new Set(all)
    for (const index of order) {
      const gone = all[index]
      assert.ok(gone !== undefined && left.delete(gone))
      await rm(gone.directory, { recursive: true })
      for (const saved of left) await assertHolds(saved)
    }
    fill(guest, 'last', 360, 100)
    const last = await guest.save()
    assert.ok(last.memoryBytes <= CHANGED_BYTES + HEADER_BYTES)
    await assertHolds(last)
  })

for (const [what, damage] of [
  ['are gone', (file: string) => rm(file)],
  ['are cut short', (file: string) => truncate(file, 5000)],
  ['hold rubbish', async (file: string) => writeFile(file, (await readFile(file)).fill('rubbish', HEADER_BYTES))],
] as const)
  test(`diffs beside the process that ${what} make the next image larger and never wrong, and those of others stay as they are`, async () => {
    await using guest = await startGuest(4 * MIB)
    const all = await threeGenerations(guest)
    for (const name of ['memory-1.diff', 'memory-3.diff']) {
      // A file of its own, as a restored copy is: those of the images are not touched.
      const file = path.join(guest.directory, name)
      const bytes = await readFile(file)
      await rm(file)
      await writeFile(file, bytes)
      await damage(file)
    }
    fill(guest, 'last', 360, 100)
    for (const saved of [...all, await guest.save(), await guest.save()]) await assertHolds(saved)
  })

test('an image without a change takes no diff of its own', async () => {
  await using guest = await startGuest(4 * MIB)
  const first = await guest.save()
  assert.deepEqual([first.manifest.diffs, first.memoryBytes], [[], 0])
  fill(guest, 'written', 1, 1)
  await guest.save()
  const third = await guest.save()
  assert.deepEqual([third.manifest.diffs, third.memoryBytes], [['memory-1.diff'], 0])
  await assertHolds(third)
})

test('what is saved into the own directory lies over the same diffs, and leaves nothing there that is no part of it', async () => {
  await using guest = await startGuest(4 * MIB)
  const earlier = await threeGenerations(guest)
  await writeFile(path.join(guest.directory, 'memory-2.diff'), 'damaged', { flag: 'r+' })
  fill(guest, 'standby', 400, 10)
  const saved = await guest.save(guest.directory)
  assert.deepEqual(saved.manifest.diffs, ['memory-1.diff', 'memory-3.diff', 'memory-4.diff'])
  assert.deepEqual(await memoryFiles(guest.directory), ['memory-1.base', ...saved.manifest.diffs, 'memory.json'])
  await assertHolds(saved)
  await assert.rejects(checkedManifest(earlier[1]?.directory ?? ''), /memory-2.diff is damaged/)
})

test('what QEMU says of its devices is kept byte for byte, and its zeros take no room', async () => {
  await using guest = await startGuest(MIB)
  const devices = Buffer.alloc(50 * pageBytes + 700)
  devices.write('first')
  devices.write('middle', 20 * pageBytes + 5)
  devices.write('last', devices.length - 4)
  const target = await freshDirectory()
  await writeFile(path.join(target, 'device.state'), devices)
  await guest.save(target)
  assert.ok((await readFile(path.join(target, 'device.state'))).equals(devices))
  assert.ok((await stat(path.join(target, 'device.state'))).blocks * 512 <= 3 * pageBytes)
})

for (const mostHeld of [undefined, 0, 10 * MIB])
  test(`much is compared ${mostHeld === undefined ? 'in memory' : `in a file, if no more than ${mostHeld} bytes may be held`}, and nothing is left of that`, async () => {
    await using guest = await startGuest(48 * MIB)
    const [pages, more] = [(20 * MIB) / pageBytes, 256]
    fill(guest, 'much', 1, pages)
    const first = await guest.save(undefined, mostHeld)
    fill(guest, 'more', 1 + pages, more)
    const second = await guest.save(undefined, mostHeld)
    assert.deepEqual(await memoryFiles(second.directory), ['memory-1.base', 'memory-1.diff', 'memory-2.diff', 'memory.json'])
    assert.ok(second.memoryBytes <= more * pageBytes + HEADER_BYTES)
    for (const saved of [first, second]) await assertHolds(saved)
  })

for (const mostHeld of [undefined, 0])
  test(`when much was written, it is merged into a base of its own without diffs, wherever it is saved; held bytes ${mostHeld ?? 'by default'}`, async () => {
    await using guest = await startGuest(96 * MIB)
    fill(guest, 'first', 1, 100)
    const before = await guest.save(undefined, mostHeld)
    fill(guest, 'much', 1, (70 * MIB) / pageBytes)
    const merged = await guest.save(undefined, mostHeld)
    assert.deepEqual(await memoryFiles(merged.directory), ['memory-2.base', 'memory.json'])
    assert.deepEqual(await memoryFiles(guest.directory), ['memory-1.base'])
    const standby = await guest.save(guest.directory, mostHeld)
    assert.deepEqual(await memoryFiles(guest.directory), ['memory-1.base', 'memory-2.base', 'memory.json'])
    assert.equal((await readWholeManifest(guest.directory))?.mapped, 'memory-1.base')
    for (const saved of [before, merged, standby]) await assertHolds(saved)
  })
