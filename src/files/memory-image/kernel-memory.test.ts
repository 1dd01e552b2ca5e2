// What the kernel may do with a guest's memory behind the VMM's back: swap it out, take it back for a balloon, join it to huge pages.

import assert from 'node:assert/strict'
import { mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test, type TestContext } from 'node:test'
import { run } from '../../../tests/support/command.ts'
import { mapAnonymously, mapPrivately } from '../../../tests/support/private-mapping.ts'
import { capturePages, saveChanges } from './changes.ts'
import { mergeDiff, saveAsBase } from './image.ts'
import { findMapping, pageBytes, privatePages, type Mapping } from './private-pages.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'kernel-memory-'))
after(() => rm(root, { recursive: true }))

const pages = 1024
const ramBytes = pages * pageBytes
const HUGE_BYTES = 2 * 1024 ** 2
const SWAP_BYTES = 32 * 1024 ** 2

async function makeBase(name: string): Promise<string> {
  const file = path.join(root, name)
  await writeFile(file, Buffer.alloc(ramBytes, 'base'))
  return file
}

function mappingOf(file: string): Promise<Mapping> {
  return findMapping(process.pid, new RegExp(`^${path.basename(file).replaceAll('.', '\\.')}$`), ramBytes)
}

/** Bytes of all this process's memory that a line of its smaps counts. */
async function counted(line: string, at: number): Promise<number> {
  const smaps = await readFile('/proc/self/smaps', 'utf8')
  const part = smaps.slice(smaps.indexOf(`\n${at.toString(16)}-`) + 1)
  return Number(new RegExp(`^${line}: +(\\d+) kB$`, 'm').exec(part)?.[1] ?? 0) * 1024
}

async function saved(base: string, mapping: Mapping): Promise<Buffer> {
  const [diff, merged] = [`${base}.diff`, `${base}.merged`]
  const captured = await capturePages(mapping, await privatePages(mapping), `${base}.whole`)
  await saveChanges(captured, { base, diffs: [] }, diff)
  await mergeDiff(base, diff, merged)
  return readFile(merged)
}

/** Makes room on disk for memory until the result is disposed of; undefined, with the reason told, where that can't be. */
async function swapSpace(context: TestContext): Promise<AsyncDisposable | undefined> {
  const file = path.join(root, 'swap')
  await using handle = await open(file, 'wx', 0o600)
  for (let at = 0; at < SWAP_BYTES; at += HUGE_BYTES) await handle.write(Buffer.alloc(HUGE_BYTES), 0, HUGE_BYTES, at)
  await handle.sync()
  for (const [tool, ...args] of [
    ['mkswap', file],
    ['swapon', file],
  ] as const) {
    const { code, stderr } = await run(tool, args)
    if (code === 0) continue
    context.skip(`this host has no room for swap: ${stderr.trim()}`)
    return undefined
  }
  return {
    async [Symbol.asyncDispose]() {
      const { code, stderr } = await run('swapoff', [file])
      assert.equal(code, 0, stderr)
    },
  }
}

test('pages that were swapped out are saved with what they held', async (context) => {
  await using swap = await swapSpace(context)
  if (swap === undefined) return
  const base = await makeBase('memory-1.base')
  using mapped = mapPrivately(base, ramBytes)
  for (let page = 3; page < pages; page += 7) mapped.bytes.fill(page % 250, page * pageBytes, (page + 1) * pageBytes)
  const expected = Buffer.from(mapped.bytes)
  const mapping = await mappingOf(base)
  const before = await privatePages(mapping)
  mapped.advise('pageOut')
  if ((await counted('Swap', mapping.address)) === 0) return context.skip('the kernel swapped nothing out')
  assert.deepEqual(await privatePages(mapping), before)
  assert.deepEqual(await privatePages(mapping, () => undefined), before, 'by a look at every page')
  assert.ok((await saved(base, mapping)).equals(expected))
})

test('pages that a balloon gave back are what the guest sees in them afterwards: the base', async () => {
  const base = await makeBase('memory-2.base')
  using mapped = mapPrivately(base, ramBytes)
  mapped.bytes.fill('guest')
  mapped.advise('drop', 100 * pageBytes, 200 * pageBytes)
  const mapping = await mappingOf(base)
  assert.deepEqual(await privatePages(mapping), [
    { first: 0, count: 100 },
    { first: 200, count: pages - 200 },
  ])
  assert.ok((await saved(base, mapping)).equals(mapped.bytes))
})

test('memory in huge pages is saved like any other', async (context) => {
  // Of a size that nothing else has, and apart from its neighbours by its advice.
  const bytes = 6 * HUGE_BYTES + 5 * pageBytes
  using mapped = mapAnonymously(bytes)
  mapped.advise('hugePages')
  const mapping = await findMapping(process.pid, /^$/, bytes)
  for (let at = 0; at < bytes - HUGE_BYTES; at += HUGE_BYTES) mapped.bytes.write('huge', at)
  mapped.bytes.write('small', bytes - pageBytes)
  if ((await counted('AnonHugePages', mapping.address)) === 0) return context.skip('the kernel gave no huge pages')
  const file = path.join(root, 'huge')
  const written = await saveAsBase(mapping, await privatePages(mapping), file)
  assert.ok((await readFile(file)).equals(mapped.bytes))
  assert.equal(written, 7 * pageBytes, 'pages of zeros in huge ones stay holes')
})
