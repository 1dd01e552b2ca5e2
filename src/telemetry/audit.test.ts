// The audit log as a file: whole lines, rotation, and what happens when it can't be written.

import assert from 'node:assert/strict'
import { appendFile, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, truncate } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { openAuditLog, type AuditLine, type AuditLog } from './audit.ts'
import type { AnsweredRequest } from './types.ts'

interface World extends AsyncDisposable {
  readonly directory: string
  readonly file: string
  readonly log: AuditLog
  readonly outcomes: string[]
  readonly failed: (readonly [AuditLine, string])[]
}

async function openWorld({ maxBytes = 10_000, files = 3 } = {}): Promise<World> {
  const directory = await mkdtemp(path.join(os.tmpdir(), 'hypeman-audit-'))
  const file = path.join(directory, 'audit.jsonl')
  const outcomes: string[] = []
  const failed: [AuditLine, string][] = []
  const log = openAuditLog({
    ...{ file, maxBytes, files },
    told: (outcome) => outcomes.push(outcome),
    failed: (line, reason) => failed.push([line, reason]),
  })
  return {
    ...{ directory, file, log, outcomes, failed },
    async [Symbol.asyncDispose]() {
      await log[Symbol.asyncDispose]()
      await rm(directory, { recursive: true })
    },
  }
}

function request(change: Partial<AnsweredRequest> = {}): AnsweredRequest {
  return {
    ...{ id: 'r1', method: 'POST', operation: 'createInstance', status: 201, code: undefined, ms: 1.4, subject: 'ada' },
    ...{ remoteAddress: '127.0.0.1', changes: true, target: undefined, answered: { id: 'i1', name: 'web' } },
    ...change,
  }
}

async function linesOf(file: string): Promise<Record<string, unknown>[]> {
  const lines = (await readFile(file, 'utf8')).trimEnd().split('\n')
  return lines.map((line) => JSON.parse(line) as Record<string, unknown>)
}

test('a change is one line with who, what and how it ended, in a file for this user alone; what changes nothing is none, nor is who has no good token', async () => {
  await using world = await openWorld()
  world.log.requests.answered?.(request())
  world.log.requests.answered?.(request({ id: 'r2', changes: false }))
  world.log.requests.answered?.(request({ id: 'r3', status: 403, code: 'forbidden', target: 'web', answered: {} }))
  world.log.requests.answered?.(request({ id: 'r4', subject: undefined, status: 401, code: 'unauthorized' }))
  await world.log.written()
  const lines = (await linesOf(world.file)).map(({ time, ...line }) => {
    assert.match(String(time), /^\d{4}-\d\d-\d\dT[\d:.]+Z$/)
    return line
  })
  const common = { operation: 'createInstance', remote: '127.0.0.1', ms: 1 }
  assert.deepEqual(lines, [
    { ...common, request_id: 'r1', subject: 'ada', id: 'i1', name: 'web', status: 201 },
    { ...common, request_id: 'r3', subject: 'ada', target: 'web', status: 403, code: 'forbidden' },
  ])
  assert.equal((await stat(world.file)).mode & 0o777, 0o600)
})

test('however lines come, each is whole in one of the files, none is twice, and there are never more files or longer ones than allowed', async () => {
  const batch = fc.array(fc.string({ maxLength: 300 }), { maxLength: 20 })
  await fc.assert(
    fc.asyncProperty(fc.array(batch, { maxLength: 10 }), fc.integer({ min: 1, max: 4 }), async (batches, files) => {
      await using world = await openWorld({ maxBytes: 2_000, files })
      const sent: string[] = []
      for (const targets of batches) {
        for (const target of targets) {
          const id = `r${sent.length}`
          sent.push(id)
          world.log.requests.answered?.(request({ id, target }))
        }
        await world.log.written()
      }
      const present = await readdir(world.directory)
      assert.ok(present.length <= files, present.join(' '))
      // The oldest first.
      const found: string[] = []
      for (const name of present.toSorted((one, other) => ageOf(other) - ageOf(one)))
        for (const line of await linesOf(path.join(world.directory, name))) found.push(String(line['request_id']))
      assert.deepEqual(found, sent.slice(sent.length - found.length))
      if (files * 2_000 > sent.length * 700) assert.equal(found.length, sent.length)
      assert.deepEqual(
        world.outcomes,
        sent.map(() => 'written'),
      )
    }),
    { numRuns: 40 },
  )
})

function ageOf(name: string): number {
  return Number(/\.(\d+)$/.exec(name)?.[1] ?? 0)
}

test('a file is put aside before it gets longer than allowed', async () => {
  await using world = await openWorld({ maxBytes: 400, files: 3 })
  for (let index = 0; index < 12; index += 1) {
    world.log.requests.answered?.(request({ id: `r${index}` }))
    await world.log.written()
  }
  assert.deepEqual((await readdir(world.directory)).toSorted(), ['audit.jsonl', 'audit.jsonl.1', 'audit.jsonl.2'])
  for (const name of await readdir(world.directory)) assert.ok((await stat(path.join(world.directory, name))).size <= 400, name)
})

test('a line that can’t be written is handed over whole with the reason, and the log goes on when the disk does', async () => {
  await using world = await openWorld()
  await mkdir(world.file)
  world.log.requests.answered?.(request())
  await world.log.written()
  assert.deepEqual(world.outcomes, ['failed'])
  const [[line, reason] = []] = world.failed
  assert.deepEqual([line?.request_id, line?.subject, line?.operation], ['r1', 'ada', 'createInstance'])
  assert.match(reason ?? '', /EISDIR/)
  await rm(world.file, { recursive: true })
  world.log.requests.answered?.(request({ id: 'r2' }))
  await world.log.written()
  assert.deepEqual(world.outcomes, ['failed', 'written'])
  assert.deepEqual(
    (await linesOf(world.file)).map((one) => one['request_id']),
    ['r2'],
  )
})

test('a link in place of the file is not followed', async () => {
  await using world = await openWorld()
  await symlink(path.join(world.directory, 'elsewhere'), world.file)
  world.log.requests.answered?.(request())
  await world.log.written()
  assert.deepEqual(world.outcomes, ['failed'])
  assert.deepEqual(await readdir(world.directory), ['audit.jsonl'])
})

test('behind a line that was cut off the next one begins anew, and a log that is opened again is gone on with', async () => {
  await using world = await openWorld()
  world.log.requests.answered?.(request())
  await world.log[Symbol.asyncDispose]()
  const { size } = await stat(world.file)
  await truncate(world.file, size - 10)
  const again = openAuditLog({ file: world.file, maxBytes: 10_000, files: 3, told: () => undefined, failed: () => undefined })
  again.requests.answered?.(request({ id: 'r2' }))
  await again[Symbol.asyncDispose]()
  const [cut, whole = '', ...rest] = (await readFile(world.file, 'utf8')).split('\n')
  assert.throws(() => JSON.parse(cut ?? '') as unknown)
  assert.equal((JSON.parse(whole) as AuditLine).request_id, 'r2')
  assert.deepEqual(rest, [''])
})

test('more lines than memory shall hold while the disk is slow are handed over, not dropped', async () => {
  await using world = await openWorld({ maxBytes: 100_000_000 })
  await appendFile(world.file, '')
  const many = 10_500
  for (let index = 0; index < many; index += 1) world.log.requests.answered?.(request({ id: `r${index}` }))
  await world.log.written()
  const written = (await linesOf(world.file)).map((line) => String(line['request_id']))
  const handedOver = world.failed.map(([line]) => line.request_id)
  assert.ok(handedOver.length > 0)
  assert.equal(new Set([...written, ...handedOver]).size, many)
})
