// Generations of one process's memory: each is saved by what changed since the last one, and all of them stay what the process saw, whatever becomes of the earlier diffs.

import assert from 'node:assert/strict'
import { truncateSync } from 'node:fs'
import { copyFile, mkdir, mkdtemp, readFile, rm, stat, symlink, truncate, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import fc from 'fast-check'
import { makeBase, mappingOf, pages, ramBytes, range, somePages, write } from '../../../tests/support/guest-memory.ts'
import { run } from '../../../tests/support/command.ts'
import { mapPrivately } from '../../../tests/support/private-mapping.ts'
import { capturePages, makeRoom, saveChanges, type SavedChanges } from './changes.ts'
import { checkDiff } from './diff-file.ts'
import { applyDiffs, mergeDiff } from './image.ts'
import { pageBytes, privatePages, type Mapping } from './private-pages.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'changes-'))
after(() => rm(root, { recursive: true }))
let count = 0

async function freshDirectory(): Promise<string> {
  const directory = path.join(root, String((count += 1)))
  await mkdir(directory)
  return directory
}

interface Guest extends AsyncDisposable {
  readonly directory: string
  readonly base: string
  readonly memory: Buffer
  readonly mapping: Mapping
  drop(first: number, pagesToDrop: number): void
  /** Saves what changed over the diffs; the guest writes on while that is compared, and where room is made before. */
  save(diffs: readonly string[], mostHeld?: number, withRoom?: boolean): Promise<Generation>
}

interface Generation extends SavedChanges {
  readonly diffs: readonly string[]
  readonly expected: Buffer
}

async function startGuest(filled: ReadonlySet<number>): Promise<Guest> {
  const directory = await freshDirectory()
  const base = path.join(directory, `memory-${count}.base`)
  await makeBase(base, filled)
  const mapped = mapPrivately(base, ramBytes)
  const mapping = await mappingOf(base)
  let generation = 0
  /** Made while all that the guest ever wrote is something else, and before it wrote some of that. */
  const roomFor = async (whole: string, mostHeld?: number): Promise<Buffer | undefined> => {
    const memory = Buffer.from(mapped.bytes)
    const own = await privatePages(mapping)
    for (const { first, count: length } of own) mapped.bytes.fill('earlier', first * pageBytes, (first + length) * pageBytes)
    const room = await makeRoom(mapping, own.slice(0, Math.ceil(own.length * 0.7)), whole, undefined, mostHeld ?? ramBytes)
    for (const { first, count: length } of own)
      memory.copy(mapped.bytes, first * pageBytes, first * pageBytes, (first + length) * pageBytes)
    return room
  }
  return {
    directory,
    base,
    memory: mapped.bytes,
    mapping,
    drop: (first, pagesToDrop) => mapped.advise('drop', first * pageBytes, (first + pagesToDrop) * pageBytes),
    async save(diffs, mostHeld, withRoom = false) {
      const file = path.join(directory, `memory-${(generation += 1)}.diff`)
      const whole = path.join(directory, `whole-${generation}`)
      const options = { ...(mostHeld === undefined ? {} : { mostHeld }), ...(withRoom ? { room: await roomFor(whole, mostHeld) } : {}) }
      const captured = await capturePages(mapping, await privatePages(mapping), whole, options)
      if (!withRoom) assert.equal(captured.held === undefined, captured.runs.length > 0 && mostHeld === 0)
      const expected = Buffer.from(mapped.bytes)
      mapped.bytes.fill('after', 0, 3 * pageBytes)
      const saved = await saveChanges(captured, { base, diffs }, file)
      expected.copy(mapped.bytes, 0, 0, 3 * pageBytes)
      return { ...saved, expected, diffs: saved.bytes === 0 ? saved.over : [...saved.over, file] }
    },
    async [Symbol.asyncDispose]() {
      mapped[Symbol.dispose]()
      await rm(directory, { recursive: true })
    },
  }
}

/** A process that maps the base anew and gets the diffs has the memory of the generation; so has the base that all are merged into. */
async function assertRestores({ base, directory }: Guest, { diffs, expected }: Generation): Promise<void> {
  const again = path.join(directory, `memory-${(count += 1)}.base`)
  await copyFile(base, again)
  using mapped = mapPrivately(again, ramBytes)
  await applyDiffs(diffs, await mappingOf(again))
  assert.ok(mapped.bytes.equals(expected), 'applied')
  let merged = base
  for (const diff of diffs) {
    await checkDiff(diff, ramBytes)
    const next = path.join(directory, `merged-${(count += 1)}`)
    await mergeDiff(merged, diff, next)
    merged = next
  }
  assert.ok((await readFile(merged)).equals(expected), 'merged')
}

function changedPages(one: Buffer, other: Buffer): number {
  return range(0, pages).filter(
    (page) => one.compare(other, page * pageBytes, (page + 1) * pageBytes, page * pageBytes, (page + 1) * pageBytes) !== 0,
  ).length
}

/** Most that a diff of so many changed pages may take. */
function mostBytes(changed: number): number {
  return changed === 0 ? 0 : (changed + Math.ceil((64 + 16 * changed) / pageBytes)) * pageBytes
}

/** What a guest does between two generations. */
const deeds = fc.record({
  written: somePages,
  value: fc.nat(255),
  dropped: fc.array(fc.tuple(fc.nat(pages - 1), fc.integer({ min: 1, max: 200 })), { maxLength: 4 }),
})

for (const [where, mostHeld, withRoom] of [
  ['held in memory', undefined, false],
  ['written to a file', 0, false],
  ['held in memory that was made ready', undefined, true],
  ['written over what a file got of them before', 0, true],
  ['now few enough to be held, now too many', 40 * pageBytes, true],
] as const)
  test(`every generation is what the process saw, and takes what changed since the last one; its pages ${where}`, async () => {
    await fc.assert(
      fc.asyncProperty(somePages, fc.array(deeds, { minLength: 1, maxLength: 5 }), async (filled, generations) => {
        await using guest = await startGuest(filled)
        const saved: Generation[] = []
        const ofBase = await readFile(guest.base)
        for (const { written, value, dropped } of generations) {
          write(guest.memory, written)
          for (const page of written) if (page % 3 === 0) guest.memory.fill(value, page * pageBytes, (page + 1) * pageBytes)
          for (const [first, length] of dropped) guest.drop(first, Math.min(length, pages - first))
          const earlier = saved.at(-1)
          const next = await guest.save(earlier?.diffs ?? [], mostHeld, withRoom)
          const before = next.over.length === 0 ? ofBase : earlier?.expected
          assert.ok(before !== undefined && (next.over.length === 0 || next.over.length === earlier?.diffs.length))
          assert.ok(next.bytes <= mostBytes(changedPages(before, next.expected)))
          assert.equal(next.bytes === 0, before.equals(next.expected))
          if (next.bytes > 0) assert.equal((await stat(next.diffs.at(-1) ?? '')).size, next.bytes)
          saved.push(next)
        }
        for (const generation of saved) await assertRestores(guest, generation)
      }),
      { numRuns: 10 },
    )
  })

test('pages that hold what the base holds are left out, and a memory without others has no diff', async () => {
  await using guest = await startGuest(new Set(range(0, 50)))
  for (const page of range(0, 40)) guest.memory.fill((page % 250) + 1, page * pageBytes, (page + 1) * pageBytes)
  assert.deepEqual((await privatePages(guest.mapping)).length, 1)
  const same = await guest.save([])
  assert.deepEqual([same.bytes, same.diffs], [0, []])
  guest.memory.fill('other', 20 * pageBytes, 21 * pageBytes)
  assert.equal((await guest.save([])).bytes, mostBytes(1))
})

test('pages that the process gave back since the last generation are the base again', async () => {
  await using guest = await startGuest(new Set(range(0, 50)))
  guest.memory.fill('guest', 10 * pageBytes, 30 * pageBytes)
  const first = await guest.save([])
  guest.drop(12, 5)
  const second = await guest.save(first.diffs)
  assert.deepEqual([second.bytes, second.over], [mostBytes(5), first.diffs])
  for (const generation of [first, second]) await assertRestores(guest, generation)
})

/** Three generations, and one more whose earlier diffs are damaged by then. */
async function threeGenerations(guest: Guest): Promise<Generation> {
  guest.memory.fill('one', 100 * pageBytes, 400 * pageBytes)
  const first = await guest.save([])
  guest.memory.fill('two', 200 * pageBytes, 220 * pageBytes)
  const second = await guest.save(first.diffs)
  guest.memory.fill('three', 210 * pageBytes, 230 * pageBytes)
  const third = await guest.save(second.diffs)
  guest.memory.fill('four', 215 * pageBytes, 240 * pageBytes)
  assert.equal(third.diffs.length, 3)
  return third
}

for (const [what, used, damage] of [
  ['missing', 2, (file: string) => rm(file)],
  ['cut short', 2, (file: string) => truncate(file, 9000)],
  ['empty', 2, (file: string) => truncate(file, 0)],
  ['a link to an equal one', 2, (file: string) => copyFile(file, `${file}-equal`).then(() => relink(file, `${file}-equal`))],
  ['a directory', 2, (file: string) => rm(file).then(() => mkdir(file))],
  ['a pipe', 2, (file: string) => rm(file).then(() => run('mkfifo', [file]))],
  ['full of other pages', 3, (file: string) => scribble(file)],
] as const)
  for (const index of [0, 1, 2])
    test(`an earlier diff, number ${index + 1} of 3, that is ${what} makes the next one larger at most`, async () => {
      await using guest = await startGuest(new Set(range(50, 300)))
      const { diffs } = await threeGenerations(guest)
      await damage(diffs[index] ?? '')
      const next = await guest.save(diffs)
      assert.equal(next.over.length, used)
      await assertRestores(guest, next)
    })

async function relink(file: string, target: string): Promise<void> {
  await rm(file)
  await symlink(target, file)
}

async function scribble(file: string): Promise<void> {
  const bytes = await readFile(file)
  await writeFile(file, bytes.fill('scribble', 2 * pageBytes))
}

test('earlier diffs in any order, or of another memory, make the next one larger at most', async () => {
  await using guest = await startGuest(new Set(range(50, 300)))
  await using other = await startGuest(new Set(range(0, 20)))
  other.memory.fill('other', 100 * pageBytes, 600 * pageBytes)
  const foreign = await other.save([])
  const { diffs } = await threeGenerations(guest)
  await assertRestores(guest, await guest.save(diffs.toReversed()))
  await assertRestores(guest, await guest.save([...foreign.diffs, ...diffs]))
})

test('an earlier diff that can not be read to its end is none to compare with', async () => {
  await using guest = await startGuest(new Set(range(50, 300)))
  const { diffs } = await threeGenerations(guest)
  const whole = path.join(guest.directory, 'whole')
  const captured = await capturePages(guest.mapping, await privatePages(guest.mapping), whole)
  // It ends too early after its table was read.
  const { signal } = new AbortController()
  signal.throwIfAborted = () => truncateSync(diffs[0] ?? '', 5 * pageBytes)
  const file = path.join(guest.directory, 'last.diff')
  const saved = await saveChanges(captured, { base: guest.base, diffs }, file, signal)
  assert.deepEqual(saved.over, [])
  await assertRestores(guest, { ...saved, diffs: [file], expected: Buffer.from(guest.memory) })
})

test('after eight diffs the next one is over the base alone', async () => {
  await using guest = await startGuest(new Set())
  guest.memory.fill('much', 0, 300 * pageBytes)
  const lengths: number[] = []
  let last = await guest.save([])
  for (const generation of range(0, 10)) {
    lengths.push(last.diffs.length)
    guest.memory.fill(`generation ${generation}`, 400 * pageBytes, 402 * pageBytes)
    last = await guest.save(last.diffs)
    await assertRestores(guest, last)
  }
  assert.deepEqual(lengths, [1, 2, 3, 4, 5, 6, 7, 8, 1, 2])
})

test('diffs of pages that are written again and again begin anew before they hold much more than there is', async () => {
  await using guest = await startGuest(new Set())
  let last = await guest.save([])
  for (const generation of range(0, 12)) {
    guest.memory.fill(`generation ${generation}`, 100 * pageBytes, 150 * pageBytes)
    last = await guest.save(last.diffs)
    await assertRestores(guest, last)
    const sizes = await Promise.all(last.diffs.map(async (file) => (await stat(file)).size))
    assert.ok(sizes.reduce((sum, size) => sum + size, 0) <= 3 * mostBytes(50))
    assert.ok(last.diffs.length <= 3)
  }
})

test('a base that can not be read is an error, and no diff is left of it', async () => {
  await using guest = await startGuest(new Set(range(0, 50)))
  guest.memory.fill('guest', 10 * pageBytes, 30 * pageBytes)
  const captured = await capturePages(guest.mapping, await privatePages(guest.mapping), path.join(guest.directory, 'whole'))
  const file = path.join(guest.directory, 'none.diff')
  const short = path.join(guest.directory, 'short')
  await writeFile(short, Buffer.alloc(12 * pageBytes))
  await assert.rejects(saveChanges(captured, { base: short, diffs: [] }, file), /ended/)
  await assert.rejects(stat(file), /ENOENT/)
})
