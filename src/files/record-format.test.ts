// How records of all versions are read: step by step to the present one, and with words for what can't be.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, rm, symlink, truncate, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { promisify } from 'node:util'
import { z } from 'zod'
import { defineRecord, fileWord, RecordError } from './record-format.ts'
import { isMissing } from './tree.ts'

const directory = await mkdtemp(path.join(os.tmpdir(), 'hypeman-records-'))
after(() => rm(directory, { recursive: true }))

/** Version 0 said no version, version 1 had megabytes, version 2 bytes, version 3 adds tags. */
const parcel = defineRecord({
  kind: 'parcel',
  version: 3,
  schema: z.object({ version: z.literal(3), id: fileWord, bytes: z.int(), tags: z.record(z.string(), z.string()) }),
  steps: {
    0: (older) => older,
    1: ({ megabytes, ...rest }) => ({ ...rest, bytes: Number(megabytes) * 1_000_000 }),
    2: (older) => ({ ...older, tags: {} }),
  },
})
const present = { version: 3, id: 'one', bytes: 5_000_000, tags: {} } as const

const older: readonly object[] = [
  { id: 'one', megabytes: 5 },
  { version: 1, id: 'one', megabytes: 5 },
  { version: 2, id: 'one', bytes: 5_000_000 },
  present,
]
for (const record of older)
  test(`a record of version ${'version' in record ? String(record.version) : 'none'} is read as the present one`, () => {
    assert.deepEqual(parcel.parse(JSON.stringify(record), 'p.json'), present)
  })

test('a record inside of another is of a version of its own, and one that is too new is told', () => {
  const crate = defineRecord({ kind: 'crate', version: 1, schema: z.object({ version: z.literal(1), parcel: parcel.embedded }) })
  const holding = (inner: object): string => JSON.stringify({ version: 1, parcel: inner })
  for (const inner of older) assert.deepEqual(crate.parse(holding(inner), 'c.json'), { version: 1, parcel: present })
  assert.throws(
    () => crate.parse(holding({ ...present, version: 4 }), 'c.json'),
    (error) =>
      error instanceof RecordError && error.newer && error.message.startsWith('c.json is no crate: parcel: the parcel in it has version 4'),
  )
})

const bad: readonly (readonly [what: string, text: string, message: RegExp])[] = [
  ['nothing', '', /^p\.json is empty; put a good copy back/],
  ['half of it', JSON.stringify(present).slice(0, 20), /^p\.json was cut off, damaged or edited \(.+\); put a good copy back/],
  ['a list', '[1]', /no object/],
  ['null', 'null', /no object/],
  ['a version that is a word', JSON.stringify({ ...present, version: 'three' }), /says no version/],
  ['a version below all', JSON.stringify({ ...present, version: -1 }), /says no version/],
  ['wrong types', JSON.stringify({ ...present, bytes: 'many' }), /^p\.json is no parcel: bytes: .*expected/],
  ['a name that leads elsewhere', JSON.stringify({ ...present, id: '../../etc' }), /id: not a plain name/],
]
for (const [what, text, message] of bad)
  test(`a file with ${what} is refused with a reason`, () => {
    assert.throws(
      () => parcel.parse(text, 'p.json'),
      (error) => error instanceof RecordError && !error.newer && message.test(error.message),
    )
  })

test('a version without a step is no version', () => {
  const only = defineRecord({ kind: 'box', version: 2, schema: z.object({ version: z.literal(2) }) })
  assert.throws(() => only.parse('{"version":1}', 'b.json'), /b\.json has version 1, which there never was of a box/)
  assert.throws(() => only.parse('{}', 'b.json'), /says no version/)
})

test('only plain files are read: no link, no directory, nothing that keeps the reader waiting, nothing endless', async () => {
  const at = (name: string): string => path.join(directory, name)
  await writeFile(at('good.json'), JSON.stringify(present))
  await symlink(at('good.json'), at('link.json'))
  await mkdir(at('directory.json'))
  await promisify(execFile)('mkfifo', [at('pipe.json')])
  await writeFile(at('huge.json'), '')
  await truncate(at('huge.json'), 1024 ** 4)
  assert.deepEqual(await parcel.read(at('good.json')), present)
  const messages = {
    link: /is a link, which is never followed/,
    directory: /is no file/,
    pipe: /is no file/,
    huge: /larger than any record/,
  }
  for (const [name, message] of Object.entries(messages))
    await assert.rejects(parcel.read(at(`${name}.json`)), (error) => error instanceof RecordError && message.test(error.message), name)
  await assert.rejects(parcel.read(at('none.json')), (error) => error instanceof RecordError && isMissing(error.cause))
})
